"""Mechanisms that pool a set of items or positions to one vector."""
