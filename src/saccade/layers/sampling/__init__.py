"""Mechanisms that choose where to sample an image."""
