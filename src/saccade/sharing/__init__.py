"""Sharing: save a model with its attention as a folder, and load it in another process."""

from saccade.sharing.folder import load, save

__all__ = ["load", "save"]
