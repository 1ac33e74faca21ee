"""Mechanisms that weight channels."""
