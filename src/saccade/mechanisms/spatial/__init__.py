"""Mechanisms that weigh positions."""
