"""Mechanisms that draw one choice at random, trained by score functions or straight through."""
