"""Attention into any network in one line, and out again without a trace."""

from saccade.attach.attach import attach, detach, sites
from saccade.attach.attached import Attached
from saccade.attach.site import Site, Sites

__all__ = ["Attached", "Site", "Sites", "attach", "detach", "sites"]
