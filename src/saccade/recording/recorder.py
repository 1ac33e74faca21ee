"""Recording: collect the attention maps that a model's mechanisms publish while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from saccade.errors import BadOption, NothingRecorded, UnknownName
from saccade.maps import AttentionMap, PairwiseMap, SpatialMap, Tap, attention_rollout
from saccade.recording.adapters import COMPILED, Adapter, FeatureShapes, Handle, find, is_watched

_PLACELESS = ("channel", "branch")  # kinds whose weights belong to no place


class Maps(Mapping[str, AttentionMap]):
    """Attention maps by the path of the module that published them; see `record`.

    A path that published nothing itself stands for what is below it: for its only map or, among
    several, for the only one with places of its own (CBAM's spatial gate, not its channel gate).
    A module called several times holds its latest map.
    """

    def __init__(self, taps: Mapping[str, Tap]) -> None:
        self._taps = taps
        self._maps: dict[str, AttentionMap] = {}

    def __getitem__(self, path: str) -> AttentionMap:
        recorded = self._collect()
        if path in recorded:
            return recorded[path]
        below = {p: m for p, m in recorded.items() if p.startswith(path + ".") or not path}
        placed = [m for m in below.values() if m.kind not in _PLACELESS or len(below) == 1]
        if len(placed) == 1:
            return placed[0]
        if below:
            raise BadOption(f"{path!r} holds {len(below)} maps; name one of {', '.join(map(repr, below))}")
        raise UnknownName("recorded map", path, recorded)

    def __iter__(self) -> Iterator[str]:
        return iter(self._collect())

    def __len__(self) -> int:
        return len(self._collect())

    def __contains__(self, path: object) -> bool:
        return path in self._collect()

    def __repr__(self) -> str:
        return f"Maps({', '.join(f'{path!r}: {m.kind}' for path, m in self.items())})"

    def rollout(self) -> SpatialMap:
        """Return the attention rollout of the pairwise maps, in the order of their modules."""
        return attention_rollout([m for m in self.values() if isinstance(m, PairwiseMap)])

    def _collect(self) -> dict[str, AttentionMap]:
        """Read the taps while they record; what was read last stays after they are off."""
        for path, tap in self._taps.items():
            if tap.latest is not None:
                self._maps[path] = tap.latest
        return self._maps


@contextmanager
def record(model: nn.Module, adapters: Mapping[type[nn.Module], Adapter] | None = None) -> Iterator[Maps]:
    """Collect the attention maps of the forward passes that run inside the `with` block.

    Seen are this package's mechanisms and attention that is already in a network: `nn.MultiheadAttention`,
    the vision and Swin transformers of torchvision and timm, squeeze-and-excitation; the table is in
    `saccade.recording.adapters`. `adapters` adds classes of your own: functions of the module, its inputs by
    name and its output that return a map.

    The result of the model is the same with and without. When the block ends, normally or by an
    exception, the model is as it was. A compiled model of this package's mechanisms is compiled once more,
    with its maps.

    Raises `NothingRecorded` at once if the model holds no attention that is known, and at the end if none
    of it ran; `BadOption` if the model is scripted, is being recorded already, or is compiled and holds
    attention that only hooks can see.

    >>> import torch, saccade as sc
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), sc.create("multi_head", 16))
    >>> with sc.record(model) as maps:
    ...     y = model(torch.randn(2, 3, 8, 8))
    >>> maps["1"].heatmap(size=(8, 8)).shape
    torch.Size([2, 8, 8])

    Attention of others, and how a class of your own is added:

    >>> model = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    >>> with sc.record(model) as maps:
    ...     y = model(torch.randn(2, 16, 32))
    >>> maps["self_attn"].attention_from(y=3, x=0, head=2).shape
    torch.Size([2, 4, 4])
    >>> gate = torch.nn.Sigmoid()
    >>> with sc.record(gate, {torch.nn.Sigmoid: lambda gate, inputs, output: sc.SpatialMap(output)}) as maps:
    ...     y = gate(torch.randn(2, 8, 8))
    >>> maps
    Maps('': spatial)
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise BadOption("a scripted model cannot be recorded; record the module it was scripted from")
    features = FeatureShapes()
    found = find(model, adapters or {}, features)
    taps: dict[str, Tap] = {}
    for name, module in model.named_modules():
        if isinstance(module, Tap):
            taps[_path(name.rpartition(".")[0])] = module
        elif name in found:
            taps[_path(name)] = Tap()
    if not taps:
        raise NothingRecorded(
            f"{type(model).__name__} holds no attention mechanism that is known, so there is nothing "
            "to record"
        )
    if any(tap.recording for tap in taps.values()) or any(is_watched(module) for module in model.modules()):
        raise BadOption(f"{type(model).__name__} is being recorded already; leave the outer block first")
    maps = Maps(taps)
    for tap in taps.values():
        tap.recording = True
    try:
        with ExitStack() as stack:
            for module in model.modules() if found else ():
                _remove_with(stack, features.watch(module))
            for name, watch in found.items():
                _remove_with(stack, watch(taps[_path(name)].publish))
            yield maps
        if not maps:
            raise NothingRecorded(
                f"none of the {len(taps)} mechanisms of {type(model).__name__} ran; "
                f"call the model inside the block{', not through compiled code' if found else ''}"
            )
    finally:
        maps._collect()  # before the taps are emptied
        for tap in taps.values():
            tap.recording, tap.latest = False, None


def _remove_with(stack: ExitStack, handles: Iterable[Handle]) -> None:
    for handle in handles:
        stack.callback(handle.remove)


def _path(name: str) -> str:
    """The path of a module, without the levels that torch.compile adds."""
    return ".".join(part for part in name.split(".") if part != COMPILED)
