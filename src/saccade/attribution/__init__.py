"""Attribution: heat maps from gradients."""

from saccade.attribution.cam import grad_cam, last_layer

__all__ = ["grad_cam", "last_layer"]
