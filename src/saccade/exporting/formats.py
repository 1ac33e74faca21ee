"""The formats: the content of a file, and a function that runs it."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.export import ExportedProgram

from saccade._torch import tensors_in
from saccade.exporting.axes import Inputs, named_axes

#: The content of a file, and what runs it.
File = tuple[bytes, Callable[[Inputs], list[Tensor]]]


def import_onnxruntime() -> None:
    """Raise `ModuleNotFoundError` with what to install unless ONNX files can be written and run."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        needed = f"saccade.export to ONNX needs {error.name!r}; pip install 'saccade[export]'"
        raise ModuleNotFoundError(needed, name=error.name) from error


def onnx_file(
    program: ExportedProgram,
    inputs: Inputs,
    dynamic: Sequence[str],
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> File:
    """Return a program as an ONNX file that runs in onnxruntime on the CPU."""
    import onnxruntime

    with _quiet():
        converted = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=(tuple(named_axes(x, dynamic) for x in inputs),),
            verbose=False,
        )
    if converted is None:
        raise RuntimeError("torch.onnx.export returned no program")
    content: bytes = converted.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> list[Tensor]:
        arrays = {name: x.cpu().numpy() for name, x in zip(input_names, inputs, strict=True)}
        return [torch.from_numpy(y) for y in session.run(list(output_names), arrays)]

    return content, run


def program_file(program: ExportedProgram) -> File:
    """Return a program as a file of torch.export, and run what the file holds."""
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer)
        content = buffer.getvalue()
        loaded = torch.export.load(io.BytesIO(content)).module()
    return content, lambda inputs: tensors_in(loaded(*inputs))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings of the exporters about themselves."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
