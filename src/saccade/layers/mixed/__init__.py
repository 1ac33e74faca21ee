"""Mechanisms that weight channels and positions."""
