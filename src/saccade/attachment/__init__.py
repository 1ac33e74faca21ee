"""Attachment: insert attention into any model, and remove it again."""

from saccade.attachment.attached import Attached, detach
from saccade.attachment.insertion import attach
from saccade.attachment.listing import sites
from saccade.attachment.site import KINDS, Kind, Site, Sites
from saccade.attachment.trace import Call, Node, trace_forward

__all__ = [
    "KINDS",
    "Attached",
    "Call",
    "Kind",
    "Node",
    "Site",
    "Sites",
    "attach",
    "detach",
    "sites",
    "trace_forward",
]
