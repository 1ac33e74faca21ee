"""Mechanisms that sample one choice, trained with score functions or straight-through gradients."""
