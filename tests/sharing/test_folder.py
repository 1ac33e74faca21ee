"""`save` and `load`: the same outputs in another process, and one sentence for an unusable folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

import saccade as sc
from saccade.models import SmallCNN
from support.errors import raises

X = torch.randn(2, 3, 64, 64)


def randomized(model: nn.Module) -> nn.Module:
    """Give every parameter and statistic a value that no initialization has."""
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(0.01 * torch.rand_like(value))
    return model.eval()


def own() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = own()
    sc.attach(model, "se", where=["0"], example_inputs=X)
    return sc.save(randomized(model), tmp_path / "saved")


BACKBONES: dict[str, tuple[Any, str]] = {
    "timm": (lambda: timm.create_model("resnet18", num_classes=5), "auto"),
    "tokens": (
        lambda: timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64),
        "timm:vit_tiny_patch16_224:depth=2,img_size=64",
    ),
    "torchvision": (lambda: torchvision.models.resnet18(num_classes=3), "torchvision:resnet18:num_classes=3"),
    "saccade": (lambda: SmallCNN(4), "saccade:SmallCNN:classes=4"),
}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("identity", [True, False])
def test_a_loaded_model_computes_the_same(name: str, identity: bool, tmp_path: Path) -> None:
    build, backbone = BACKBONES[name]
    model, where = build(), "stage" if name == "saccade" else "residual"
    sc.attach(model, "cbam:reduction=4", where=where, example_inputs=X, identity=identity)
    randomized(model)
    state = torch.get_rng_state()
    loaded = sc.load(sc.save(model, tmp_path, backbone=backbone))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(loaded(X), model(X))
    assert sc.attached(loaded) == sc.attached(model)
    assert not loaded.training


def test_half_precision_and_one_channel_are_kept(tmp_path: Path) -> None:
    model = randomized(timm.create_model("resnet18", num_classes=2, in_chans=1)).bfloat16()
    loaded = sc.load(sc.save(model, tmp_path))
    x = X[:, :1].bfloat16()
    assert torch.equal(loaded(x), model(x))


def test_saved_again_the_folder_holds_the_new_model(folder: Path) -> None:
    plain = own()
    randomized(plain)
    sc.save(plain, folder)
    assert torch.equal(sc.load(folder, model=own())(X), plain(X))


@pytest.mark.parametrize("options", [{"global_pool": "max"}, {"drop_path_rate": 0.1}, {"output_stride": 16}])
def test_a_model_that_its_name_does_not_build_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with raises(sc.BadOption, owner="save", option="backbone"):
        sc.save(timm.create_model("resnet18", **options), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_attention_that_no_longer_runs_is_refused(tmp_path: Path) -> None:
    model = own()
    sc.attach(model, "se", where=["0"], example_inputs=X)
    model[0] = nn.Conv2d(3, 16, 3)
    with raises(sc.BadOption, option="model", value="0.attention"):
        sc.save(model, tmp_path)


def test_files_of_another_program_stay(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with raises(sc.BadRun, owner=str(tmp_path / "config.json")):
        sc.save(own(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_model_without_a_backbone_needs_an_instance(folder: Path) -> None:
    with raises(sc.BadOption, option="model", value=None):
        sc.load(folder)


def test_another_model_is_refused_and_left_as_it_was(folder: Path) -> None:
    other = nn.Sequential(nn.Conv2d(3, 16, 5), nn.ReLU())
    with raises(sc.BadRun, value="0.weight"):
        sc.load(folder, model=other)
    assert not sc.attached(other)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damaged_weights_give_one_sentence(damage: str, folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    if damage != "missing":
        path.write_bytes(content if damage == "flipped" else content[:100])
    with raises(sc.BadRun, owner=str(path)):
        sc.load(folder, model=own())


def test_exchanged_weights_give_one_sentence(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: x + 1 for name, x in load_file(path).items()}, path)
    with raises(sc.BadRun, owner=str(path), option="sha256"):
        sc.load(folder, model=own())


def _attachment(**values: Any) -> Any:
    return lambda content: content["attachments"][0].update(values)


DAMAGES: dict[str, Any] = {
    "schema": lambda content: content.update(schema=99),
    "foreign": lambda content: content.pop("saccade"),
    "no_digest": lambda content: content.pop("sha256"),
    "no_list": lambda content: content.update(attachments=5),
    "no_object": lambda content: content.update(attachments=[5]),
    "mechanism": _attachment(mechanism="os.system"),
    "option": _attachment(options={"reduction": "all"}),
    "channels": _attachment(channels=10**9),
    "path": _attachment(path="9.attention"),
    "hidden": _attachment(path="0.forward"),
    "grid": _attachment(grid=[0, 0]),
    "guard": _attachment(guarded_by=5),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_configuration_gives_one_sentence(damage: str, folder: Path) -> None:
    path, model = folder / "config.json", own()
    content = json.loads(path.read_text())
    DAMAGES[damage](content)
    path.write_text(json.dumps(content))
    with raises(sc.BadRun, owner=str(path)):
        sc.load(folder, model=model)
    assert not sc.attached(model)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("subprocess:Popen", {}),
        ("timm:hf_hub:a/b", {}),
        ("saccade:load_backbone", {}),
        ("timm:resnet18", {"pretrained": True}),
        ("timm:resnet18", {"checkpoint_path": "x.pth"}),
        ("torchvision:resnet18", {"pretrained": True}),
        ("timm:resnet18", {"num_classes": -5}),
    ],
)
def test_a_backbone_of_a_stranger_is_no_way_in(name: str, options: dict[str, Any], folder: Path) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text()) | {"backbone": {"name": name, "options": options}}
    path.write_text(json.dumps(content))
    with raises(sc.BadRun, owner=str(path)):
        sc.load(folder)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", "\0"])
def test_a_file_that_is_no_configuration_gives_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with raises(sc.BadRun, owner=str(tmp_path / "config.json")):
        sc.load(tmp_path)


def test_other_folders_give_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with raises(sc.BadRun, owner=str(path)):
            sc.load(path)


def test_the_examples_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).parents[2] / "docs/deploy.md").read_text().partition("## Export")[0]
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert sc.attached(names["loaded"])
