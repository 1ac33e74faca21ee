"""Damaged and foreign files of a run or a comparison: one sentence that names the file, no stack trace."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saccade.errors import SaccadeError
from saccade.viz import write_report
from support.forked import ForkServer
from support.hostile import QUICK, SMALL

_VALUES: tuple[Any, ...] = (
    None,
    [],
    {},
    "x",
    -1,
    1e999,
    float("nan"),
    True,
    [[[]]],
    "[bold]\x1b[31m",
    10**400,
)
_TEXTS = {
    "empty": "",
    "null": "null",
    "list": "[]",
    "object": "{}",
    "number": "5",
    "text": '"x"',
    "cut": '{"schema": 2, "lea',
    "deep": "[" * 100_000 + "]" * 100_000,
    "nan": "NaN",
    "newer": '{"schema": 99}',
    "words": '{"schema": "two"}',
    "repeated": '{"schema": 2, "schema": 2}',
    "long": '{"schema": 2, "command": "' + "x" * 1_000_000 + '"}',
}
_FIELDS = {
    "results.json": ("leaderboard", "runs", "task", "recipe", "schema", "hardware"),
    "leaderboard[0]": ("attention", "error", "seeds", "localization", "flops", "latency_ms", "scores"),
    "runs[0]": ("folder", "attention", "error", "curves", "seed", "localization"),
    "task": ("classes", "masks", "chance_error", "name"),
}


@pytest.fixture(scope="module")
def comparison(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("comparison")
    line = (
        "compare",
        SMALL,
        *QUICK.split(),
        "-a",
        "none",
        "-a",
        "se:reduction=4",
        "--seeds",
        "2",
        "--out",
        "out",
    )
    outcome = server.run(line, root / "work", environment={"HOME": str(root)})
    assert outcome.code == 0, outcome.error
    return root / "work" / "out"


def check(server: ForkServer, folder: Path, *arguments: str, name: str) -> None:
    outcome = server.run(arguments, folder.parent / "work", environment={"HOME": str(folder.parent)})
    printed = outcome.output + outcome.error
    assert outcome.code == 2, (outcome.code, printed)
    assert "Traceback" not in printed, printed
    assert "\x1b" not in printed
    assert len(printed) < 1500
    assert name in printed.replace("\n", "")


def damaged(comparison: Path, tmp_path: Path) -> Path:
    shutil.copytree(comparison, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.soak
@pytest.mark.parametrize("name", _TEXTS)
def test_json_files(name: str, comparison: Path, server: ForkServer, tmp_path: Path) -> None:
    out = damaged(comparison, tmp_path)
    run = next((out / "runs").iterdir())
    (out / "results.json").write_text(_TEXTS[name])
    check(server, out, "report", str(out), name="results.json")
    check(server, out, "score", str(out), name="results.json")
    (run / "result.json").write_text(_TEXTS[name])
    check(server, out, "score", str(run), name="result.json")


def _replace(value: Any, path: str, new: Any) -> None:
    *parents, last = [p for part in path.split(".") for p in part.replace("]", "").split("[")]
    for key in parents:
        value = value[int(key) if key.isdigit() else key]
    value[last] = new


@pytest.mark.parametrize("section", _FIELDS)
def test_fields_of_results(section: str, comparison: Path, tmp_path: Path) -> None:
    out = damaged(comparison, tmp_path)
    text = (out / "results.json").read_text()
    for field in _FIELDS[section]:
        for value in _VALUES:
            results = json.loads(text)
            path = field if section == "results.json" else f"{section}.{field}"
            _replace(results, path, value)
            (out / "results.json").write_text(json.dumps(results))
            try:
                write_report(out)
            except SaccadeError as error:
                message = str(error)
            else:  # null is allowed in some fields, a text in others
                assert value is None or isinstance(value, str | bool | int | list | dict), (path, value)
                continue
            assert "results.json" in message or "attention" in message
            assert len(message) <= 1000


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


_GALLERIES = {
    "empty": b"",
    "text": b"not a gallery",
    "empty_archive": _npz(),
    "schema_alone": _npz(schema=np.asarray(2)),
    "pickle": _npz(schema=np.asarray(2), images=np.array([{}], dtype=object)),
    "no_images": _npz(schema=np.asarray(2), images=np.zeros((0, 3, 4, 4), np.uint8)),
    "scalar": _npz(schema=np.asarray(2), images=np.asarray(3, np.uint8)),
    "text_array": _npz(schema=np.asarray(2), images=np.asarray("x")),
}


@pytest.mark.soak
@pytest.mark.parametrize("name", [*_GALLERIES, "folder", "zip_of_text", "cut"])
def test_galleries(name: str, comparison: Path, server: ForkServer, tmp_path: Path) -> None:
    out = damaged(comparison, tmp_path)
    run = sorted((out / "runs").iterdir())[-1]
    gallery = run / "gallery.npz"
    content = gallery.read_bytes()
    gallery.unlink()
    if name == "folder":
        gallery.mkdir()
    elif name == "zip_of_text":
        with zipfile.ZipFile(gallery, "w") as archive:
            archive.writestr("images.npy", "text")
    else:
        gallery.write_bytes(content[: len(content) // 2] if name == "cut" else _GALLERIES[name])
    check(server, out, "look", str(run), name="gallery.npz")
    outcome = server.run(("report", str(out)), tmp_path / "work", environment={"HOME": str(tmp_path)})
    assert outcome.code in (0, 2), outcome.error
    assert "Traceback" not in outcome.error


_CHECKPOINTS: dict[str, Any] = {
    "text": "text",
    "empty": {},
    "list": [],
    "no_state": {"state_dict": {}, "loops": {}},
    "wrong_recipe": {
        "state_dict": {},
        "loops": {},
        "hyper_parameters": {"recipe": [], "classes": 5, "shape": 3},
    },
    "unknown_key": {
        "state_dict": {"mean": torch.zeros(3), "std": torch.ones(3)},
        "loops": {},
        "hyper_parameters": {"recipe": {"epoch": 3}, "classes": ["a", "b"], "shape": [3, 8, 8]},
    },
    "wrong_shape": {
        "state_dict": {"mean": torch.zeros(3), "std": torch.ones(3)},
        "loops": {},
        "hyper_parameters": {"recipe": {}, "classes": ["a", "b"], "shape": [3, -8, 8]},
    },
    "huge_shape": {
        "state_dict": {"mean": torch.zeros(3), "std": torch.ones(3)},
        "loops": {},
        "hyper_parameters": {
            "recipe": {"backbone": "vit:patch=1,dim=65536"},
            "classes": ["a", "b"],
            "shape": [3, 10**6, 10**6],
        },
    },
    "bad_mean": {
        "state_dict": {"mean": "x", "std": 5},
        "loops": {},
        "hyper_parameters": {"recipe": {}, "classes": ["a", "b"], "shape": [3, 8, 8]},
    },
}


@pytest.mark.soak
@pytest.mark.parametrize("name", [*_CHECKPOINTS, "cut", "missing", "fifo"])
def test_checkpoints(name: str, comparison: Path, server: ForkServer, tmp_path: Path) -> None:
    out = damaged(comparison, tmp_path)
    run = sorted((out / "runs").iterdir())[-1]
    checkpoint = run / "checkpoints" / "last.ckpt"
    content = checkpoint.read_bytes()
    checkpoint.unlink()
    if name in _CHECKPOINTS:
        torch.save(_CHECKPOINTS[name], checkpoint)
    elif name == "cut":
        checkpoint.write_bytes(content[: len(content) // 2])
    elif name == "fifo":
        os.mkfifo(checkpoint)
    for command in ("evaluate", "score", "look"):
        check(server, out, command, str(run), name="last.ckpt")


@pytest.mark.soak
@pytest.mark.parametrize("text", ["", "null", "[]", "task: [", "schema: 99", "epochs: 0", "x: 1", "\x00"])
def test_recipes_of_runs(text: str, comparison: Path, server: ForkServer, tmp_path: Path) -> None:
    out = damaged(comparison, tmp_path)
    run = sorted((out / "runs").iterdir())[-1]
    (run / "recipe.yaml").write_text(text)
    if text not in ("", "null"):
        check(server, out, "evaluate", str(run), name="recipe.yaml")
    check(server, out, "train", SMALL, *QUICK.split(), "--out", str(run), name="recipe.yaml")
    (out / "recipe.yaml").write_text(text)
    check(server, out, "compare", SMALL, *QUICK.split(), "-a", "none", "--out", str(out), name="recipe.yaml")
