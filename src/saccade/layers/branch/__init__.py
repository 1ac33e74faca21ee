"""Mechanisms that weight parallel branches."""
