"""Attention mechanisms. Each paper has one file; its folder is the domain and its name the public name."""
