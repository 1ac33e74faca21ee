"""`export`: the file gives the results of the model at any size, or there is no file."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import timm
import torch
from torch import Tensor, nn

import saccade as sc
from saccade.cli import main
from saccade.config import Recipe
from saccade.exporting import Exported, exporter
from saccade.models import RecurrentAttention, SmallCNN, ViT
from saccade.training import restore, train
from support.errors import check_sentence, raises

Format = Literal["onnx", "program"]
SUFFIX = {"onnx": ".onnx", "program": ".pt2"}
FORMATS = [
    pytest.param(
        "onnx",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("onnxruntime") is None, reason="needs the extra export"
        ),
    ),
    "program",
]
X = torch.randn(2, 3, 32, 40)


def network(attention: str = "cbam") -> nn.Module:
    """A network whose parameters have values that no initialization has."""
    model = SmallCNN(5, attention={2: attention})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def run(exported: Exported, *inputs: Tensor) -> dict[str, Tensor]:
    """Run a file, without the code that wrote it."""
    if exported.format == "program":
        result = torch.export.load(exported.path).module()(*inputs)
        output, maps = result if isinstance(result, tuple) else (result, {})
        return {"output": output, **{f"map.{path}" if path else "map": value for path, value in maps.items()}}
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    arrays = dict(zip(exported.inputs, (x.numpy() for x in inputs), strict=True))
    names = [output.name for output in session.get_outputs()]
    results = session.run(None, arrays)
    return {name: torch.from_numpy(value) for name, value in zip(names, results, strict=True)}


@pytest.mark.parametrize("to", FORMATS)
def test_output_and_maps_are_those_of_the_model_at_a_new_size(to: Format, tmp_path: Path) -> None:
    model = network().train()
    exported = sc.export(model, tmp_path / f"model{SUFFIX[to]}", X, to=to, maps=True)
    assert all(module.training for module in model.modules())
    assert exported.outputs == ("output", "map.attention.2.channel", "map.attention.2.spatial")
    assert (exported.format, exported.inputs) == (to, ("images",))
    assert exported.dynamic == ("batch", "height", "width")
    first, *unseen = exported.errors
    assert first == (2, 3, 32, 40)
    assert {shape[0] for shape in unseen} == {1, 3}
    assert len({shape[2:] for shape in exported.errors}) == 3
    assert 0 <= exported.max_error < 1e-5

    images = torch.randn(4, 3, 61, 27)  # no size of the verification
    with torch.no_grad(), sc.record(model.eval()) as maps:
        output = model(images)
    expected = {"output": output, **{f"map.{path}": m.saliency() for path, m in maps.items()}}
    results = run(exported, images)
    assert [*results] == [*exported.outputs]
    for name, value in expected.items():
        torch.testing.assert_close(results[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("to", FORMATS)
def test_a_vision_transformer_of_a_fixed_size(to: Format, tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=3)
    file = tmp_path / f"model{SUFFIX[to]}"
    with pytest.raises(sc.BadOption, match=r"fewer than 2 other sizes .*; pass dynamic=\('batch',\)$"):
        sc.export(model, file, torch.randn(1, 3, 32, 32), to=to)
    assert not file.exists()
    exported = sc.export(model, file, torch.randn(1, 3, 32, 32), to=to, dynamic=("batch",), maps=True)
    assert [*exported.errors] == [(2, 3, 32, 32), (1, 3, 32, 32), (3, 3, 32, 32)]
    assert exported.outputs == ("output", "map.blocks.0.attn")
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad(), sc.record(model.eval()) as maps:
        expected = model(images)
    torch.testing.assert_close(run(exported, images)["output"], expected, rtol=1e-4, atol=1e-5)
    heat = maps["blocks.0.attn"].saliency()
    torch.testing.assert_close(run(exported, images)["map.blocks.0.attn"], heat, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("to", FORMATS)
def test_attached_attention_is_exported(to: Format, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1))
    sc.attach(model, "se", where=["0"], example_inputs=X, identity=False)
    exported = sc.export(model, tmp_path / f"model{SUFFIX[to]}", X, to=to)
    images = torch.randn(1, 3, 9, 11)
    result = run(exported, images)["output"]
    torch.testing.assert_close(result, model.eval()(images).detach(), rtol=1e-4, atol=1e-5)
    sc.detach(model)
    assert not torch.allclose(result, model(images), rtol=1e-4, atol=1e-5)


class Two(nn.Module):
    """Two inputs, one of which has no map, and two outputs in a dictionary."""

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"scaled": image * scale[:, None, None, None], "mean": image.mean((1, 2, 3))}


@pytest.mark.parametrize("to", FORMATS)
def test_several_inputs_and_outputs(to: Format, tmp_path: Path) -> None:
    exported = sc.export(Two(), tmp_path / f"model{SUFFIX[to]}", (X, torch.randn(2)), to=to)
    assert exported.inputs == ("image", "scale")
    assert exported.outputs == ("output.0", "output.1")


def test_clips_of_any_length(tmp_path: Path) -> None:
    from saccade.models import ClipCNN

    model, dynamic = ClipCNN(3, attention={"time": "temporal_pool"}), ("batch", "time", "height")
    exported = sc.export(
        model, tmp_path / "m.pt2", torch.randn(2, 3, 4, 16, 16), to="program", dynamic=dynamic
    )
    assert len({shape[2:4] for shape in exported.errors}) == 3
    assert {shape[4] for shape in exported.errors} == {16}
    clips = torch.randn(3, 3, 7, 23, 16)
    torch.testing.assert_close(run(exported, clips)["output"], model.eval()(clips).detach())


def test_windows_take_maps_with_and_without_padding(tmp_path: Path) -> None:
    model = sc.create("window", 32).eval()
    exported = sc.export(model, tmp_path / "m.pt2", torch.randn(2, 32, 16, 20), to="program")
    for shape in ((2, 32, 14, 14), (1, 32, 21, 20), (2, 32, 15, 21)):
        x = torch.randn(shape)
        torch.testing.assert_close(run(exported, x)["output"], model(x).detach())


def test_all_axes_can_be_fixed(tmp_path: Path) -> None:
    exported = sc.export(network(), tmp_path / "m.pt2", X[:1], to="program", dynamic=())
    assert [*exported.errors] == [(1, 3, 32, 40)]


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs the extra export")
def test_the_examples_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).parents[2] / "docs/deploy.md").read_text().partition("## Export")[2]
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {"sc": sc, "timm": timm, "torch": torch, "images": torch.randn(2, 3, 64, 64)}
    for block in blocks:
        exec(block, names)
    assert [*names["exported"].errors] == [(2, 3, 64, 64), (1, 3, 69, 67), (3, 3, 48, 81)]
    assert names["results"]["map.layer4.1.attention.mechanism.spatial"].shape == (1, 3, 3)
    assert names["output"].shape == (1, 5)


# ----------------------------------------------------------------------------- what cannot be exported


class Differs(nn.Module):
    """Gives another value in the exported file for one size."""

    def forward(self, x: Tensor) -> Tensor:
        size = 32 if torch.compiler.is_exporting() else x.shape[2]
        return x.mean((2, 3)) * size


class ReadsValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum().item() > 0 else -x


class Eager(nn.Module):
    """Attention that `record` catches by its operations."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.project(x.flatten(2).mT)
        output: Tensor = (tokens @ tokens.mT).softmax(-1) @ tokens
        return output


class Text(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return {"logits": x, "label": "cat"}


PROGRAM: dict[str, Any] = {"to": "program"}
BAD: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    # model or its constructor, arguments, fields of the error
    "another result": (Differs, PROGRAM, {"option": "model", "value": "Differs"}),
    "random": (lambda: RecurrentAttention(3, 3), PROGRAM, {"option": "model", "value": "RecurrentAttention"}),
    "no tensors": (Text, PROGRAM, {"option": "model", "value": "Text"}),
    "captured maps": (Eager, PROGRAM | {"maps": True}, {"option": "model", "value": "Eager"}),
    "no module": (lambda: "resnet18", PROGRAM, {"option": "model"}),
    "compiled": (lambda: torch.compile(Differs()), PROGRAM, {"option": "model"}),
    "format": (network, {"to": "pdf"}, {"option": "to", "value": "pdf"}),
    "axis": (network, PROGRAM | {"dynamic": ("depth",)}, {"option": "dynamic", "value": "depth"}),
    "axes as text": (network, PROGRAM | {"dynamic": "batch"}, {"option": "dynamic", "value": "batch"}),
    "no such axis": (network, PROGRAM | {"dynamic": ("time",)}, {"option": "dynamic", "value": "time"}),
    "suffix": (network, PROGRAM | {"path": "model.onnx"}, {"option": "path", "choices": (".pt2",)}),
    "an example": (network, PROGRAM | {"example_inputs": [X]}, {"option": "example_inputs", "value": "list"}),
    "empty": (network, PROGRAM | {"example_inputs": X[:0]}, {"option": "example_inputs"}),
    "fixed size": (
        lambda: ViT(32, 16, classes=2, width=16, depth=1, heads=2, mlp_width=16),
        PROGRAM | {"example_inputs": torch.randn(2, 3, 32, 32)},
        {"option": "dynamic", "choices": ("batch",)},
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_exported_leaves_no_file(case: str, tmp_path: Path) -> None:
    build, arguments, fields = BAD[case]
    options = {"path": "model.pt2", "example_inputs": X} | arguments
    with raises(sc.BadOption, owner="export", **fields):
        sc.export(build(), **options | {"path": tmp_path / options["path"]})
    assert not [*tmp_path.iterdir()]


def test_the_reason_of_torch_is_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        sc.BadOption, match=r"^export: ReadsValues cannot be exported to program.*data"
    ) as caught:
        sc.export(ReadsValues(), tmp_path / "m.pt2", X, to="program")
    assert (caught.value.owner, caught.value.option) == ("export", "model")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not [*tmp_path.iterdir()]


def test_a_model_without_attention_has_no_maps(tmp_path: Path) -> None:
    with raises(sc.NothingRecorded, owner="record"):
        sc.export(nn.Conv2d(3, 4, 1), tmp_path / "m.pt2", X, to="program", maps=True)


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").mkdir()
    with raises(sc.BadRun, owner=str(tmp_path / "m.pt2")):
        sc.export(network(), tmp_path / "m.pt2", X, to="program")


def test_a_missing_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"'onnx'; pip install 'saccade\[export\]'"):
        sc.export(network(), tmp_path / "m.onnx", X)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([torch.tensor([3.0, 4.0])], 0.25),
        ([torch.tensor([1.0, float("nan")])], float("nan")),
        ([torch.tensor([[1.0, 3.0]])], float("inf")),
    ],
)
def test_the_error_is_relative_to_the_largest_value(results: list[Tensor], expected: float) -> None:
    error = exporter._error(results, [torch.tensor([2.0, 4.0])])
    assert error == pytest.approx(expected, nan_ok=True)


# ------------------------------------------------------------------------------------ the command line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    task = "white-patch:size=32,patch=[6,12],train=8,validation=4,test=4"
    train(Recipe(task=task, attention="cbam", epochs=1, batch_size=4), folder)
    return folder


def call(*words: object) -> int:
    """Run `saccade export` in this process; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["saccade", "export", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize("to", FORMATS)
def test_the_command_exports_a_run(
    to: Format, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"deployed{SUFFIX[to]}"
    assert call(trained, "--to", to, "--maps", "--out", file, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["dynamic"] == ["batch", "height", "width"]
    assert facts["outputs"][0] == "output"
    assert len(facts["errors"]) == 3
    exported = Exported(file, to, tuple(facts["inputs"]), tuple(facts["outputs"]), (), {})
    pixels = 255 * torch.rand(3, 3, 48, 32)
    expected = restore(trained)(pixels).detach()
    torch.testing.assert_close(run(exported, pixels)["output"], expected, rtol=1e-3, atol=1e-4)


def test_the_command_exports_a_saved_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = SmallCNN(4, in_channels=1)
    sc.attach(model, "se", where="stage", example_inputs=torch.randn(2, 1, 24, 24))
    sc.save(model, tmp_path / "saved", backbone="saccade:SmallCNN:classes=4,in_channels=1")
    words = ("--to", "program", "--image-size", 24, "--dynamic", "batch,width")
    assert call(tmp_path / "saved", *words) == 0
    assert (tmp_path / "saved" / "model.pt2").is_file()
    assert "any batch, width" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ("--dynamic", "batch,depth"),
        ("--image-size", "0"),
        ("--out", "model.jpg"),
        ("--to", "tflite"),
    ],
    ids=" ".join,
)
def test_mistakes_end_with_code_2_and_write_nothing(
    words: tuple[str, ...],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(trained, *(("--to", "program") if "--to" not in words else ()), *words) == 2
    sentence = capsys.readouterr().err
    if sentence.startswith("saccade: "):
        check_sentence(sentence.strip())
    assert "Traceback" not in sentence
    assert not [*tmp_path.iterdir()]
    assert not (trained / "model.pt2").exists()
