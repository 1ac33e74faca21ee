"""`export`: write a model for deployment, and verify the file with sizes that the export has not seen."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saccade._torch import tensors_in, tree_leaves
from saccade.annotations import check_arguments
from saccade.attachment.hooks import check_model
from saccade.errors import BadOption, NothingRecorded, SaccadeError, bad_run, check_choice, printable
from saccade.exporting.axes import AXES, Inputs, check_dynamic, named_axes, other_inputs, repeat_single
from saccade.exporting.formats import File, import_onnxruntime, onnx_file, program_file
from saccade.files import atomic_write
from saccade.maps import AttentionMap
from saccade.model_state import preserve_state
from saccade.recording import record

SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "program": ".pt2"}


@dataclass(frozen=True)
class Exported:
    """A model that `export` has written and verified.

    Attributes:
        path: The file.
        format: "onnx" or "program".
        inputs: Names of the inputs.
        outputs: Names of the outputs: those of the model, then the maps.
        dynamic: Names of the axes that may have any size.
        errors: The largest difference between the file and the model for each shape of the first input,
            relative to the largest value of the output. All but the first shape are unseen by the export.
    """

    path: Path
    format: Literal["onnx", "program"]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: tuple[str, ...]
    errors: Mapping[tuple[int, ...], float]

    @property
    def max_error(self) -> float:
        """The largest error of all shapes."""
        return max(self.errors.values())


class _Deployed(nn.Module):
    """A model that takes positional tensors and can return its maps: output, or (output, {path: map}).

    Args:
        model: The model.
        maps: Whether to return the maps.
    """

    def __init__(self, model: nn.Module, maps: bool) -> None:
        super().__init__()
        self.model, self.maps = model, maps
        self.paths: tuple[str, ...] | None = None  # of the maps of the first pass

    def forward(self, *inputs: Tensor) -> Any:
        if not self.maps:
            return self.model(*inputs)
        recorded: Mapping[str, AttentionMap] = {}
        try:
            with record(self.model) as recorded:
                output = self.model(*inputs)
        except NothingRecorded:
            if self.paths is None:
                raise
        paths = tuple(recorded)
        self.paths = paths if self.paths is None else self.paths
        if missing := [repr(path) for path in self.paths if path not in paths]:
            raise RuntimeError(f"the map of {', '.join(missing)} is caught while operations run")
        return output, {path: attention.saliency() for path, attention in recorded.items()}


def export(
    model: nn.Module,
    path: str | Path,
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    to: Literal["onnx", "program"] = "onnx",
    dynamic: Sequence[str] = ("batch", "height", "width"),
    maps: bool = False,
) -> Exported:
    """Export a model with its attention, and verify the file at two unseen sizes and other batch sizes.

    The model is exported in evaluation mode. The file is written after the verification, so that a file that
    exists gives the results of the model.

    Args:
        model: The model, which does not change.
        path: The file, with the suffix `.onnx` or `.pt2` (a program). An existing file is replaced.
        example_inputs: The input of the model, or a tuple of its inputs. Their dtypes are those of the file.
        to: "onnx" for the ONNX exporter of torch (needs `pip install 'saccade[export]'`), or "program" for
            `torch.export`, which `torch.export.load` reads.
        dynamic: The axes that may have any size: "batch", "height", "width" and, of clips, "time".
        maps: Whether the file also returns the attention maps: the saliency of every recorded map, in the
            units of the map, `(B, H, W)` for images. In an ONNX file, the output of the layer at PATH has the
            name `map.PATH`; a program returns `(output, {PATH: map})`.

    Returns:
        The names of inputs and outputs, and the largest error of each size.

    Raises:
        BadOption: If the model cannot be exported, gives random results, accepts no other size although one
            is dynamic, or if the results of the file differ by more than sqrt(eps) of the dtype, relative to
            the largest value.
        BadRun: If the file cannot be written.
        NothingRecorded: If `maps` is set and the model has no attention.

    Note:
        Maps of attention that `record` catches by its operations, which is attention of a library without an
        adapter, cannot be exported. Models with a fixed size, such as `ViT`, need `dynamic=("batch",)`.

    Example:
        >>> import tempfile, torch, saccade as sc
        >>> from pathlib import Path
        >>> from saccade.models import SmallCNN
        >>> model, folder = SmallCNN(10, attention={2: "cbam"}), Path(tempfile.mkdtemp())
        >>> result = sc.export(model, folder / "m.pt2", torch.randn(2, 3, 32, 32), to="program", maps=True)
        >>> result.outputs, result.max_error < 1e-4, len(result.errors)
        (('output', 'map.attention.2.channel', 'map.attention.2.spatial'), True, 3)
    """
    check_arguments(export, {"path": path, "dynamic": dynamic, "maps": maps})
    check_model(model, "export", "export the original model")
    check_choice("export", "to", to, (*SUFFIXES,))
    for name in dynamic:
        check_choice("export", "dynamic", name, (*AXES,))
    file = _checked_path(Path(path).expanduser(), to)
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    if not inputs or not all(isinstance(x, Tensor) and x.numel() for x in inputs):
        message = "export: example_inputs must be a tensor or a tuple of tensors, none of them empty"
        kind = type(example_inputs).__name__
        raise BadOption(f"{message}, got {kind}", owner="export", option="example_inputs", value=kind)
    check_dynamic(inputs, dynamic)
    if to == "onnx":
        import_onnxruntime()
    inputs = repeat_single(inputs, dynamic)
    deployed = _Deployed(model, maps)
    with preserve_state(deployed, inputs):
        output_names = _output_names(deployed, inputs)
        input_names = _input_names(model, len(inputs))
        tolerance = _tolerance(model, inputs)

        def run(inputs: Inputs) -> list[Tensor]:
            return tensors_in(deployed(*inputs))

        expected = run(inputs)
        if not _error(run(inputs), expected) <= tolerance:
            problem = "gives other results for the same input in evaluation mode"
            raise _bad(model, f"{problem}; export a module that draws no random numbers")
        cases = [(inputs, expected), *other_inputs(inputs, dynamic, run)]
        content, run_file = _convert(deployed, inputs, to, dynamic, input_names, output_names)
        errors = _verify(model, run_file, cases, tolerance)
    with atomic_write(file) as stream:
        stream.write(content)
    return Exported(file, to, input_names, output_names, tuple(dynamic), errors)


def _checked_path(path: Path, to: str) -> Path:
    if path.suffix != SUFFIXES[to]:
        message = f"export: path={str(path)!r} must end in {SUFFIXES[to]!r} for to={to!r}"
        raise BadOption(message, owner="export", option="path", value=str(path), choices=(SUFFIXES[to],))
    if path.exists() and not path.is_file():
        raise bad_run(path, "cannot be written: it exists, and is not a regular file")
    return path


def _input_names(model: nn.Module, count: int) -> tuple[str, ...]:
    """Return the names of the first parameters of `forward`, or numbers if there are not as many."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    return tuple(names) if len(names) == count else tuple(f"input.{i}" for i in range(count))


def _output_names(deployed: _Deployed, inputs: Inputs) -> tuple[str, ...]:
    """Return the names of the outputs: `output`, or `output.0` ..., then `map.PATH`. Runs the model."""
    result = deployed(*inputs)
    leaves = tree_leaves(result[0] if deployed.maps else result)
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        kinds = ", ".join(dict.fromkeys(type(leaf).__name__ for leaf in leaves))
        raise _bad(deployed.model, f"returns {kinds or 'nothing'}; export a module that returns tensors")
    names = ["output"] if len(leaves) == 1 else [f"output.{i}" for i in range(len(leaves))]
    return (*names, *(f"map.{path}" if path else "map" for path in deployed.paths or ()))


def _tolerance(model: nn.Module, inputs: Inputs) -> float:
    dtypes = {x.dtype for x in (*model.parameters(), *inputs) if x.is_floating_point()}
    return math.sqrt(max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0))


def _convert(
    deployed: _Deployed,
    inputs: Inputs,
    to: str,
    dynamic: Sequence[str],
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> File:
    """Export a model, or raise with what could be left out."""
    axes = tuple(dict.fromkeys(named_axes(x, dynamic), torch.export.Dim.DYNAMIC) for x in inputs)
    try:
        program = torch.export.export(deployed, inputs, dynamic_shapes=(axes,), strict=False)
        if to == "program":
            return program_file(program)
        return onnx_file(program, inputs, dynamic, input_names, output_names)
    except Exception as error:  # the exporters raise errors of any type
        wishes = {f"dynamic={tuple(dynamic)}": dynamic, "maps=True": deployed.maps}
        asked = " and ".join(wish for wish, is_set in wishes.items() if is_set)
        advice = "pass fewer dynamic axes" if dynamic else ""
        advice = f"{advice} or maps=False".removeprefix(" or ") if deployed.maps else advice
        problem = f"cannot be exported to {to}{f' with {asked}' if asked else ''}: {_reason(error)}"
        raise _bad(deployed.model, f"{problem}{f'; {advice}' if advice else ''}") from error


def _verify(
    model: nn.Module,
    run_file: Callable[[Inputs], list[Tensor]],
    cases: Sequence[tuple[Inputs, list[Tensor]]],
    tolerance: float,
) -> dict[tuple[int, ...], float]:
    """Return the error of a file for each case, or raise where it is too large."""
    errors = {}
    for inputs, expected in cases:
        shape = tuple(inputs[0].shape)
        advice = "pass an example of about the size that you need, or fewer dynamic axes"
        try:
            results = run_file(inputs)
        except Exception as error:  # of onnxruntime, of guards of a program
            problem = f"was exported, but the file fails for {shape}: {_reason(error)}"
            raise _bad(model, f"{problem}; {advice}") from error
        errors[shape] = _error(results, expected)
        if not errors[shape] <= tolerance:
            problem = f"differs by {errors[shape]:.1e} for {shape}, expected at most {tolerance:.1e}"
            raise _bad(model, f"was exported, but the result of the file {problem}; {advice}")
    return errors


def _error(results: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference, relative to the largest value of its tensor."""
    error = 0.0
    for got, right in zip(results, expected, strict=True):
        if got.shape != right.shape:
            return float("inf")
        got, right = got.cpu().double(), right.cpu().double()
        scale = right.abs().max().item() or 1.0
        difference = (got - right).abs().max().item() / scale
        error = max(error, difference) if difference == difference else float("nan")
        if error != error:
            return error
    return error


def _reason(error: Exception) -> str:
    """Return the first line of the message of an exporter, whose messages have many lines."""
    line = str(error).strip().partition("\n")[0].split("For more information")[0]
    return printable(line or type(error).__name__, 300).rstrip(". ")


def _bad(model: nn.Module, problem: str) -> SaccadeError:
    name = type(model).__name__
    return BadOption(f"export: {name} {problem}", owner="export", option="model", value=name)
