"""Attachment: insert attention into any model, and remove it again."""

from saccade.attachment.api import attach, detach, sites
from saccade.attachment.attached import Attached
from saccade.attachment.site import KINDS, Kind, Site, Sites

__all__ = ["KINDS", "Attached", "Kind", "Site", "Sites", "attach", "detach", "sites"]
