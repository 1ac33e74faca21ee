"""Mechanisms that weight positions."""
