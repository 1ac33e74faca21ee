"""Augmentation of whole batches, on the device that holds them."""
