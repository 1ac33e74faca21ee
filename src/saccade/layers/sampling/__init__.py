"""Mechanisms that resample an image at computed coordinates."""
