"""Write the diagrams of the guides.

python docs/diagrams.py
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from diagram import Box, diagram

DOCS = Path(__file__).parent


def places() -> str:
    """The five kinds of places in a residual network."""
    above, row = 40, 130
    boxes = {
        "image": Box(20, row, 80, ("image",)),
        "stem": Box(180, row, 110, ("stem", "convolution")),
        "block": Box(362, row, 146, ("block", "branch + shortcut")),
        "stages": Box(580, row, 90, ("stages", "2, 3, 4")),
        "pooling": Box(740, row, 100, ("head", "linear layer")),
        "residual": Box(385, above, 100, ("residual",), "attention"),
    }
    flow = [*boxes][:5]
    arrows = [*pairwise(flow), ("residual", "block")]
    for name, (before, after) in zip(("input", "stem", "stage", "head"), pairwise(flow), strict=True):
        middle = (boxes[before].x + boxes[before].width + boxes[after].x) / 2
        boxes[f"at {name}"] = Box(middle - 35, above, 70, (name,), "attention")
        boxes[f"to {name}"] = Box(middle - 35, row, 70, ())
        arrows.append((f"at {name}", f"to {name}"))
    return diagram("Where attention can be inserted", boxes, arrows)


def search() -> str:
    """How a search decides."""
    boxes = {
        "space": Box(20, 62, 146, ("candidates", "mechanism x place", "within the limits")),
        "rungs": Box(192, 62, 126, ("short training", "one seed; the", "worst stop early")),
        "finalists": Box(344, 62, 138, ("finalists", "lowest error on", "validation images")),
        "test": Box(508, 62, 156, ("comparison", "new seeds, against", "no attention"), "attention"),
        "answer": Box(690, 62, 150, ("answer", "a recommendation", "or: nothing helped"), "file"),
    }
    keys = [*boxes]
    return diagram("How a search decides", boxes, [*pairwise(keys)])


def scale() -> str:
    """Where the runs of a comparison can be trained."""
    boxes = {
        "grid": Box(20, 130, 180, ("saccade compare", "mechanisms x seeds", "= independent runs")),
        "here": Box(270, 46, 250, ("this process", "one run after the other"), "attention"),
        "processes": Box(270, 130, 250, ("--executor processes", "several runs on one machine"), "attention"),
        "cluster": Box(270, 214, 250, ("Ray or SLURM", "many machines, one folder"), "attention"),
        "folder": Box(
            590,
            130,
            250,
            ("OUT", "runs, leaderboard, report;", "only missing runs are trained"),
            "file",
        ),
    }
    where = ("here", "processes", "cluster")
    arrows = [("grid", place) for place in where] + [(place, "folder") for place in where]
    return diagram("Where the runs of a comparison are trained", boxes, arrows)


def deploy() -> str:
    """What becomes of a model with attention."""
    boxes = {
        "model": Box(20, 130, 180, ("model", "with attention, trained"), "attention"),
        "folder": Box(250, 46, 230, ("my-model/", "config and safetensors"), "file"),
        "onnx": Box(250, 130, 230, ("model.onnx", "checked at unseen sizes"), "file"),
        "program": Box(250, 214, 230, ("model.pt2", "checked at unseen sizes"), "file"),
        "load": Box(530, 46, 310, ("sc.load, in another process", "the same model, weights and attention")),
        "runtime": Box(530, 130, 310, ("onnxruntime", "outputs: output, map.layer4.1 ...")),
        "torch": Box(530, 214, 310, ("PyTorch, without your code", "returns (output, maps)")),
    }
    ways = (("folder", "load"), ("onnx", "runtime"), ("program", "torch"))
    return diagram("What becomes of a model", boxes, [*(("model", file) for file, _ in ways), *ways])


def mechanism() -> str:
    """What one file of a mechanism leads to."""
    boxes = {
        "file": Box(
            60,
            130,
            250,
            (
                "layers/spatial/mean_gate.py",
                "function: the equation",
                "module: the parameters",
                "SPEC: the facts",
            ),
            "file",
        ),
        "python": Box(420, 46, 340, ("Python", "create, attach, sites, record, look"), "attention"),
        "commands": Box(420, 130, 340, ("command line", "compare, search, score, list, show"), "attention"),
        "tests": Box(420, 214, 340, ("tests", "one contract for every mechanism"), "attention"),
    }
    targets = ("python", "commands", "tests")
    return diagram("What a file of a mechanism leads to", boxes, [("file", target) for target in targets])


DIAGRAMS = {
    "places": places,
    "search": search,
    "scale": scale,
    "deploy": deploy,
    "mechanism": mechanism,
}


def main() -> None:
    for name, draw in DIAGRAMS.items():
        (DOCS / f"{name}.svg").write_text(draw())


if __name__ == "__main__":
    main()
