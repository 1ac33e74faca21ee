"""Mechanisms that weigh moments in time."""
