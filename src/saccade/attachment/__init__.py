"""Attachment: insert attention into any model, and remove it again."""

from saccade.attachment.fusion import fuse
from saccade.attachment.hooks import Attached
from saccade.attachment.insertion import attach
from saccade.attachment.listing import sites
from saccade.attachment.presence import Attachment, Attachments, attached, detach, move_attention, repair
from saccade.attachment.site import KINDS, Kind, Site, Sites

__all__ = [
    "KINDS",
    "Attached",
    "Attachment",
    "Attachments",
    "Kind",
    "Site",
    "Sites",
    "attach",
    "attached",
    "detach",
    "fuse",
    "move_attention",
    "repair",
    "sites",
]
