"""Mechanisms that weight pairs of positions: queries and keys."""
