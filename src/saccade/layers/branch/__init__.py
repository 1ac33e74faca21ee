"""Mechanisms that weigh branches against each other."""
