"""Attachment: insert attention into any model, and remove it again."""

from saccade.attachment.description import describe_attachments, restore_attachments
from saccade.attachment.example import call_arguments, describe_inputs
from saccade.attachment.fusion import fuse
from saccade.attachment.hooks import Attached
from saccade.attachment.insertion import attach
from saccade.attachment.listing import sites
from saccade.attachment.presence import Attachment, Attachments, attached, detach, repair
from saccade.attachment.site import KINDS, Kind, Site, Sites
from saccade.attachment.trace import Call, Node, trace_forward

__all__ = [
    "KINDS",
    "Attached",
    "Attachment",
    "Attachments",
    "Call",
    "Kind",
    "Node",
    "Site",
    "Sites",
    "attach",
    "attached",
    "call_arguments",
    "describe_attachments",
    "describe_inputs",
    "detach",
    "fuse",
    "repair",
    "restore_attachments",
    "sites",
    "trace_forward",
]
