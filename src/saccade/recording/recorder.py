"""`record`: collect the attention maps of a model while it runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from saccade._torch import is_compiled, without_compiled
from saccade.annotations import check_arguments
from saccade.errors import BadOption, NothingRecorded, SaccadeError, UnknownName
from saccade.maps import AttentionMap, HeadFusion, PairwiseMap, SpatialMap, Tap, attention_rollout
from saccade.model_state import temporary_hooks
from saccade.recording.adapters import FALLBACKS, Adapter, FeatureShapes, find_attention, is_observed
from saccade.recording.capture import Capture


class Maps(Mapping[str, AttentionMap]):
    """Attention maps by the path of the module that published them; see `record`.

    A path that published no map itself stands for the map below it, if there is only one, or only one whose
    weights have a place in the image (the spatial gate of CBAM, not its channel gate). `maps[path]`, `in` and
    `get` accept such paths; iteration and `len` cover the recorded paths alone. A module that is called
    several times keeps its latest map.

    Attributes:
        unseen: Paths of modules that are named as attention, ran, and have no map. Known when the block ends.
    """

    def __init__(self, taps: Mapping[str, Tap]) -> None:
        self._taps = taps
        self._maps: dict[str, AttentionMap] = {}
        self.unseen: tuple[str, ...] = ()

    def __getitem__(self, path: str) -> AttentionMap:
        recorded = self._collect()
        if path in recorded:
            return recorded[path]
        below = {p: m for p, m in recorded.items() if p.startswith(f"{path}.") or not path}
        placed = [m for m in below.values() if m.has_place or len(below) == 1]
        if len(placed) == 1:
            return placed[0]
        if below:
            message = f"{path!r} holds {len(below)} maps; choose one of {', '.join(map(repr, below))}"
            raise BadOption(message, owner="Maps", option="path", value=path, choices=below)
        raise UnknownName("recorded map", path, recorded, owner="Maps")

    def __contains__(self, path: object) -> bool:
        """Return whether `maps[path]` is a map."""
        return isinstance(path, str) and self.get(path) is not None

    def get(self, path: str, default: Any = None) -> Any:
        """Return `maps[path]`, or `default` if that is no map or several."""
        try:
            return self[path]
        except SaccadeError:
            return default

    def __iter__(self) -> Iterator[str]:
        return iter(self._collect())

    def __len__(self) -> int:
        return len(self._collect())

    def __repr__(self) -> str:
        return f"Maps({', '.join(f'{path!r}: {m.kind}' for path, m in self.items())})"

    def rollout(
        self, *, head_fusion: HeadFusion = "mean", discard_ratio: float = 0.0, start_layer: int = 0
    ) -> SpatialMap:
        """Return the attention rollout of the pairwise maps in the order of their modules.

        See `attention_rollout`.
        """
        maps = [m for m in self.values() if isinstance(m, PairwiseMap)]
        return attention_rollout(
            maps, head_fusion=head_fusion, discard_ratio=discard_ratio, start_layer=start_layer
        )

    def _collect(self) -> dict[str, AttentionMap]:
        """Read the taps while they record; the maps stay when the recording has ended."""
        self._maps |= {path: tap.latest for path, tap in self._taps.items() if tap.latest is not None}
        return self._maps


def _is_known(module: nn.Module) -> bool:
    """Return whether a module is a layer of torch or of this package, which attends in no unknown way."""
    return type(module).__module__.split(".")[0] in ("torch", "saccade")


@contextmanager
def record(model: nn.Module, adapters: Mapping[type[nn.Module], Adapter] | None = None) -> Iterator[Maps]:
    """Collect the attention maps of the forward passes inside the `with` block.

    `record` observes the mechanisms of this package and, by adapters, attention of other libraries:
    `nn.MultiheadAttention`, the vision and Swin transformers of torchvision and timm, and
    squeeze-and-excitation. `saccade.recording.adapters` holds the table. Entry points of the group
    `saccade.adapters` extend it for every recording.

    Any other attention is caught by its operations, with fused kernels on: `F.scaled_dot_product_attention`,
    `F.multi_head_attention_forward`, `flex_attention` with its functions of the scores, plain and compiled,
    and every softmax over keys whose result is multiplied with values by a matrix product. Its map has the
    path of the innermost module with parameters; a second attention of the same module has the path with
    "#2". Queries and keys are kept where they are known, otherwise the weights. Windows that the model cuts
    out of a feature map by reshapes, shifts and padding are put back on the whole grid, as a `WindowMap`, and
    tokens in another order than that of the image are sorted. If windows cannot be traced to their places,
    they are the heads of an `UnplacedWindowMap`, which has no picture. Queries of a decoder that come from
    learned embeddings, and tokens that were selected, have one axis, whatever their number. Attention between
    channels is a `ChannelMap`. A linear layer that mixes the weights of heads is not applied.

    The model computes the same result inside the block and outside. When the block ends, normally or by an
    exception, the model is restored. A compiled model of the mechanisms of this package is compiled once more
    with its maps, and so is a compiled function that a model calls. Other attention inside of a compiled
    function is named in `unseen`. If a module is compiled, only mechanisms of this package and classes with
    an adapter are recorded, and a warning says so.

    Args:
        model: The model.
        adapters: Further classes of attention. An adapter is a function of the module, its inputs by name and
            its output that returns a map. It applies to subclasses, too, and precedes the built-in ones.

    Yields:
        The maps by the path of their module, filled by each forward pass.

    Raises:
        NothingRecorded: At once if the model consists of layers of torch without attention; at the end if no
            attention ran.
        BadOption: If the model is scripted or already being recorded, or if it is compiled and holds
            attention that needs hooks.

    Example:
        >>> import torch, saccade as sc
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), sc.create("multi_head", 16))
        >>> with sc.record(model) as maps:
        ...     y = model(torch.randn(2, 3, 8, 8))
        >>> maps["1"].heatmap(size=(8, 8)).shape
        torch.Size([2, 8, 8])

        Attention of another library, and an adapter for a class of its own:

        >>> model = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
        >>> with sc.record(model) as maps:
        ...     y = model(torch.randn(2, 16, 32))
        >>> maps["self_attn"].attention_from(y=3, x=0, head=2).shape
        torch.Size([2, 4, 4])
        >>> gate = torch.nn.Sigmoid()
        >>> adapters = {torch.nn.Sigmoid: lambda gate, inputs, output: sc.SpatialMap(output)}
        >>> with sc.record(gate, adapters) as maps:
        ...     y = gate(torch.randn(2, 8, 8))
        >>> maps
        Maps('': spatial)
    """
    check_arguments(record, locals())
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        message = "cannot record a scripted model; record the module it was scripted from"
        raise BadOption(message, owner="record", option="model", value=name)
    features = FeatureShapes()
    modules = dict(model.named_modules())
    attention = find_attention(modules, adapters or {}, features)
    taps: dict[str, Tap] = {}
    for path, module in modules.items():
        place = without_compiled(path)
        if isinstance(module, Tap):
            taps[place.rpartition(".")[0]] = module
        elif place in attention:
            taps[place] = Tap()
    if not taps and all(type(module).__module__.startswith("torch.nn.") for module in modules.values()):
        raise NothingRecorded(f"{name} holds no known attention mechanism", owner="record", value=name)
    if any(tap.recording for tap in taps.values()) or any(map(is_observed, modules.values())):
        message = f"{name} is already being recorded; leave the outer block first"
        raise BadOption(message, owner="record", option="model", value=name)

    observers = (handle for path, observe in attention.items() for handle in observe(taps[path].publish))
    maps = Maps(taps)

    def publish(path: str, captured: AttentionMap) -> None:
        if path not in taps:
            taps[path] = Tap()
            taps[path].recording = True
        taps[path].publish(captured)

    # Compiled code calls no functions of torch. A program for any size cannot compare shapes.
    has_compiled = any(map(is_compiled, modules.values()))
    is_opaque = has_compiled or torch.compiler.is_exporting()
    fallbacks = {path for path, observe in attention.items() if observe.func in FALLBACKS}
    capture = None if is_opaque else Capture(modules, taps.keys() - fallbacks, features, publish)
    for tap in taps.values():
        tap.recording = True
    try:
        with (
            temporary_hooks(() if capture or not attention else features.register(modules.values())),
            temporary_hooks(observers),
            capture or nullcontext(),
        ):
            yield maps
        if capture:
            maps.unseen = tuple(capture.unseen(maps))
        elif has_compiled and not all(map(_is_known, modules.values())):
            message = f"parts of {name} are compiled, and then only known classes of attention are recorded"
            warnings.warn(f"{message}; record the original (`model._orig_mod`)", stacklevel=4)
        if maps.unseen:
            shown = ", ".join(map(repr, maps.unseen[:3])) + (" ..." if len(maps.unseen) > 3 else "")
            message = f"{len(maps.unseen)} attention layers of {name} ran and were not recorded: {shown}"
            warnings.warn(f"{message}; `maps.unseen` lists all, `adapters=` adds them", stacklevel=4)
        if not maps:
            advice = "call the model inside the block" + ", not through compiled code" * bool(
                attention or not taps
            )
            found = f"none of the {len(taps)} mechanisms of {name} ran"
            found = found if taps else f"{name} holds no known attention mechanism, or none ran"
            if capture and capture.another_ran and not capture.calls:
                found = f"another network ran in place of this {name}, perhaps a copy of it"
                advice = "record the one that runs (ultralytics: `YOLO.predictor.model.backend.model`)"
            raise NothingRecorded(f"{found}; {advice}", owner="record", value=name)
    finally:
        maps._collect()  # before the taps are emptied
        for tap in taps.values():
            tap.recording, tap.latest = False, None
