"""Mechanisms that weigh pairs of positions: queries against keys."""
