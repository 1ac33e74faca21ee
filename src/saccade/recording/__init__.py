"""Recording: collect the attention maps of a model while it runs."""

from saccade.recording.adapters import ADAPTERS, Adapter
from saccade.recording.recorder import Maps, record

__all__ = ["ADAPTERS", "Adapter", "Maps", "record"]
