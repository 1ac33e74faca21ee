"""Seeing where a network looks: heat maps over images, as a page and as pictures, and Grad-CAM.

`saccade.look` is the function to call; this package is what it is made of.
"""

from saccade.see.grad_cam import grad_cam
from saccade.see.look import Look, look

__all__ = ["Look", "grad_cam", "look"]
