"""Mechanisms that weigh channels and positions."""
