"""Mechanisms that weigh channels."""
