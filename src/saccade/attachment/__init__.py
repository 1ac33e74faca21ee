"""Attachment: insert attention into any model, and remove it again."""

from saccade.attachment.attached import Attached, detach
from saccade.attachment.insertion import attach
from saccade.attachment.listing import sites
from saccade.attachment.site import KINDS, Kind, Site, Sites

__all__ = ["KINDS", "Attached", "Kind", "Site", "Sites", "attach", "detach", "sites"]
