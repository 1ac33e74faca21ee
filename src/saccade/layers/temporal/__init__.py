"""Mechanisms that weight time steps."""
