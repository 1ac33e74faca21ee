"""Check what every mechanism supports: export, compilation, half precision, memory layouts, sizes.

    pip install 'saccade[export]'
    python benchmarks/support_matrix.py            # all mechanisms and models, about half an hour
    python benchmarks/support_matrix.py cbam se    # these rows again

Writes benchmarks/results/support.json, from which `docs/supported.py` makes the page. Most columns are checks
of the contract (`saccade.testing`), so the tests verify them too.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import saccade as sc
from saccade._torch import aot_eager
from saccade.exporting import SUFFIXES
from saccade.files import write_json
from saccade.models import (
    ClipCNN,
    RecurrentAttention,
    ResidualAttentionNetwork,
    SimpleViT,
    SmallCNN,
    UNet,
    ViT,
)
from saccade.results import hardware_info
from saccade.testing import CHECKS, ContractFailure
from saccade.testing.case import Case
from saccade.testing.numerics import HALF, large_activation_error

FILE = Path(__file__).parent / "results" / "support.json"
CONTRACT = {check.__name__: check for check in CHECKS}
#: Column -> check of the contract, on all examples of a mechanism.
CHECKED = {
    "compile": "check_compile",
    "recompiles": "check_recompiles",
    "dtypes": "check_dtypes",
    "autocast": "check_autocast",
    "channels_last": "check_layouts",
    "sizes": "check_shapes",
}
#: Model -> how it is built, the shape of its input, and its dynamic axes.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "SmallCNN": (
        lambda: SmallCNN(10, attention={2: "cbam"}),
        (2, 3, 32, 40),
        ("batch", "height", "width"),
    ),
    "ClipCNN": (
        lambda: ClipCNN(10, attention={2: "non_local", "time": "temporal_pool"}),
        (2, 3, 4, 24, 32),
        ("batch", "time", "height", "width"),
    ),
    "ResidualAttentionNetwork": (
        lambda: ResidualAttentionNetwork(10, stem="cifar", widths=(16, 32, 64, 128)),
        (2, 3, 32, 40),
        ("batch", "height", "width"),
    ),
    "SimpleViT": (
        lambda: SimpleViT((32, 48), patch_size=8, classes=10, width=64, depth=2, heads=4, mlp_width=128),
        (2, 3, 32, 48),
        ("batch",),
    ),
    "ViT": (
        lambda: ViT((32, 48), patch_size=8, classes=10, width=64, depth=2, heads=4, mlp_width=128),
        (2, 3, 32, 48),
        ("batch",),
    ),
    "UNet": (
        lambda: UNet(10, width=8, levels=2, gate="attention_gate"),
        (2, 3, 32, 40),
        ("batch", "height", "width"),
    ),
    "RecurrentAttention": (lambda: RecurrentAttention(10, 3), (2, 3, 32, 40), ("batch", "height", "width")),
}


_BATCH: tuple[str, ...] = ("batch",)
_ANY: tuple[str, ...] = ("batch", "height", "width")


def outcome(action: Callable[[], Any]) -> Any:
    """Return what an action returns, or its error as a text."""
    try:
        return action()
    except (sc.SaccadeError, ContractFailure, RuntimeError) as error:
        return str(error).partition("\n")[0]


def exports(model: nn.Module, inputs: tuple[Tensor, ...], dynamic: tuple[str, ...]) -> dict[str, Any]:
    """Return the largest error of the exported files, or why there is none."""
    row: dict[str, Any] = {"dynamic": dynamic}
    with tempfile.TemporaryDirectory() as folder:
        files = (("onnx", "onnx", False), ("program", "program", False), ("maps", "onnx", True))
        for column, to, maps in files:
            path = Path(folder, f"model{SUFFIXES[to]}")

            def export(to: Any = to, maps: bool = maps, path: Path = path) -> float:
                exported = sc.export(model, path, inputs, to=to, dynamic=dynamic, maps=maps)
                return exported.max_error

            row[column] = outcome(export)
    return row


def mechanism(name: str) -> dict[str, Any]:
    spec = sc.spec(name)
    options = spec.options_for("B C H W")
    if options is None or any("H" not in example.shapes for example in spec.examples[:1]):
        case, dynamic = Case(spec, spec.examples[0]), _BATCH
        inputs = case.inputs()
    else:
        example = next(e for e in spec.examples if e.shapes == "B C H W" and e.output is None)
        case, dynamic = Case(spec, example), _ANY
        inputs = case.inputs(C=64, H=16, W=20)
    model = case.build(64 if dynamic[1:] else 32)
    row = {"name": name, "drop_in": spec.drop_in, **exports(model, inputs, dynamic)}
    row |= {column: outcome(partial(CONTRACT[check], spec)) for column, check in CHECKED.items()}
    row["compile_dynamic"] = outcome(lambda: compile_dynamic(case, dynamic))
    row["one_position"] = outcome(lambda: one_position(case, dynamic))
    row["large"] = [outcome(partial(large, spec, *kind[:2])) for kind in HALF]
    return row


def compile_dynamic(case: Case, dynamic: tuple[str, ...]) -> int:
    """Compare two sizes, compiled with dynamic shapes, with eager mode; return the number of compilations."""
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    torch.compiler.reset()
    module = case.build(dtype=torch.float64).eval()
    compiled: Any = torch.compile(module, fullgraph=True, dynamic=True, backend=backend)
    other: dict[str, Any] = {"B": 3, "H": 9, "W": 7} if dynamic[1:] else {"B": 3}
    for sizes in ({}, other):
        inputs = case.inputs(dtype=torch.float64, **sizes)
        expected, gradients = case.forward_backward(copy.deepcopy(module), inputs)
        output, compiled_gradients = case.forward_backward(compiled, inputs)
        case.expect_equal("the compiled result", output, expected, 1e-10)
        case.expect_gradients("compiled", compiled_gradients, gradients, 1e-10)
    torch.compiler.reset()
    return len(graphs)


def one_position(case: Case, dynamic: tuple[str, ...]) -> None:
    """Run a map of one position in evaluation mode."""
    sizes: dict[str, Any] = (
        {"H": 1, "W": 1} if dynamic[1:] else {"H": 1, "W": 1, "T": 1, "L": 1, "Q": 1, "K": 1}
    )
    case.expect(bool(case.forward(case.build().eval(), case.inputs(**sizes)).isfinite().all()), "finite")


def large(spec: sc.Spec, dtype: torch.dtype, autocast: bool) -> float:
    """Return the largest error of all examples for large activations."""
    CONTRACT["check_large_activations"](spec)
    with torch.random.fork_rng(devices=()):
        cases = [Case(spec, example) for example in spec.examples]
        return max(large_activation_error(case, dtype, autocast=autocast)[0] for case in cases)


def main() -> None:
    warnings.filterwarnings("ignore")
    known = json.loads(FILE.read_text()) if FILE.exists() else {"rows": [], "models": []}
    rows = {row["name"]: row for row in known["rows"] if row["name"] in sc.mechanisms()}
    models = {row["name"]: row for row in known["models"]}
    for name in sys.argv[1:] or [*MODELS, *sc.mechanisms()]:
        torch.manual_seed(0)
        print(name, flush=True)
        if name in MODELS:
            build, shape, dynamic = MODELS[name]
            models[name] = {"name": name, **exports(build(), (torch.randn(shape),), dynamic)}
        else:
            rows[name] = mechanism(name)
        result = {
            "command": "python benchmarks/support_matrix.py",
            "hardware": hardware_info(),
            "models": [models[model] for model in MODELS if model in models],
            "rows": [rows[name] for name in sorted(rows)],
        }
        write_json(FILE, result)


if __name__ == "__main__":
    main()
