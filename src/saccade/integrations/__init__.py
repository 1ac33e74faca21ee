"""Attention in the trainers and loaders of other libraries, which rebuild a model from its configuration."""
