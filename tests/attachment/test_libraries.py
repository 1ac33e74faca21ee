"""The default call of `attach` on small networks of other libraries, from attaching to detaching.

Each network has random weights. CBAM is attached to every residual branch, or to `where`, with the defaults.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

import saccade as sc
from saccade.attachment.example import call_arguments, tensors_within
from support.errors import raises


@dataclass(frozen=True)
class Case:
    """A network: its package, how it is built, its inputs, the least number of places, its mechanism."""

    package: str
    build: Callable[[Any], nn.Module]
    inputs: Callable[[], Any]
    places: int
    name: str = "cbam:reduction=2"
    where: Any = "residual"
    always: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def images(*shape: int) -> Tensor:
    return torch.rand(*(shape or (2, 3, 64, 64)), generator=torch.Generator().manual_seed(1))


def pixels() -> dict[str, Tensor]:
    return {"pixel_values": images()}


VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 16,
}
MAPS: dict[str, Any] = {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1]}


def hugging_face(name: str, head: str, options: dict[str, Any]) -> Callable[[Any], nn.Module]:
    def build(library: Any) -> nn.Module:
        config = getattr(library, f"{name}Config")(**options)
        return getattr(library, f"{name}{head}")(config)  # type: ignore[no-any-return]

    return build


def vit_of(name: str, head: str = "ForImageClassification", **options: Any) -> Case:
    return Case("transformers", hugging_face(name, head, {**VIT, **options}), pixels, 4)


def maps_of(name: str, places: int, head: str = "ForImageClassification", **options: Any) -> Case:
    return Case("transformers", hugging_face(name, head, {**MAPS, **options}), pixels, places)


def yolo(name: str, places: int) -> Case:
    return Case("ultralytics", lambda library: library.YOLO(f"{name}.yaml").model, images, places)


def smp(name: str, places: int, encoder: str = "resnet18") -> Case:
    return Case(
        "segmentation_models_pytorch",
        lambda library: getattr(library, name)(encoder, encoder_weights=None),
        images,
        places,
    )


def monai(name: str, places: int, *arguments: Any, **options: Any) -> Case:
    return Case(
        "monai.networks.nets",
        lambda library: getattr(library, name)(*arguments, **options),
        lambda: images(2, 1, 32, 32, 32),
        places,
        name="se:reduction=2",
    )


def diffusers(name: str, places: int, inputs: Callable[[], Any], **options: Any) -> Case:
    return Case(
        "diffusers", lambda library: getattr(library, name)(**options, norm_num_groups=4), inputs, places
    )


def timm(name: str, places: int, **options: Any) -> Case:
    return Case("timm", lambda library: library.create_model(name, **options), images, places, always=True)


def vit_pytorch(module: str, name: str, places: int, **options: Any) -> Case:
    sizes = {"image_size": 64, "patch_size": 16, "num_classes": 3, "dim": 32, "depth": 2, "heads": 2}
    return Case(
        f"vit_pytorch.{module}",
        lambda library: getattr(library, name)(**{**sizes, "mlp_dim": 64, **options}),
        images,
        places,
    )


def diffusion_inputs() -> dict[str, Tensor]:
    return {"sample": images(2, 3, 32, 32), "timestep": torch.tensor([1, 2])}


CASES = {
    **{
        f"transformers {name}": vit_of(name)
        for name in (
            "ViT",
            "DeiT",
            "Beit",
            "Dinov2",
            "Data2VecVision",
            "ViTMSN",
            "Dinov2WithRegisters",
            "IJepa",
        )
    },
    "transformers CLIPVision": vit_of("CLIPVision", "Model"),
    "transformers DINOv3ViT": vit_of("DINOv3ViT", "Model"),
    "transformers ConvNext": maps_of("ConvNext", 4),
    "transformers ConvNextBackbone": Case(
        "transformers",
        lambda library: library.ConvNextBackbone(
            library.ConvNextConfig(**MAPS, out_features=["stage2", "stage4"])
        ),
        pixels,
        4,
    ),
    "transformers ResNet": maps_of("ResNet", 4, embedding_size=16, layer_type="basic"),
    "transformers RegNet": maps_of("RegNet", 4, embedding_size=16, groups_width=8),
    "transformers Bit": maps_of("Bit", 4, embedding_size=16, num_groups=4),
    "transformers PoolFormer": maps_of("PoolFormer", 8),
    "transformers MobileNetV2": Case(
        "transformers", hugging_face("MobileNetV2", "ForImageClassification", {}), pixels, 10
    ),
    "transformers Swin": Case(
        "transformers",
        hugging_face(
            "Swin",
            "ForImageClassification",
            {"image_size": 64, "embed_dim": 16, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4},
        ),
        pixels,
        6,
    ),
    "transformers Segformer": maps_of(
        "Segformer", 8, "ForSemanticSegmentation", num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16
    ),
    **{
        f"ultralytics {name}": yolo(name, places)
        for name, places in (
            ("yolo11n", 13),
            ("yolov8n", 6),
            ("yolo12n", 26),
            ("yolov10n", 10),
            ("yolov8n-seg", 6),
            ("yolov9t", 84),
        )
    },
    **{
        f"smp {name}": smp(name, places)
        for name, places in (
            ("Unet", 8),
            ("UnetPlusPlus", 8),
            ("FPN", 8),
            ("DeepLabV3Plus", 8),
            ("MAnet", 12),
            ("Linknet", 12),
            ("PSPNet", 4),
            ("Segformer", 8),
            ("UPerNet", 8),
        )
    },
    "smp Unet of mit_b0": smp("Unet", 16, "mit_b0"),
    "monai UNet": monai("UNet", 5, 3, 1, 2, (8, 16, 32), (2, 2), num_res_units=2),
    "monai SegResNet": monai("SegResNet", 15, 3, init_filters=8),
    "monai DynUNet": monai(
        "DynUNet", 3, 3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 32], res_block=True
    ),
    "monai VNet": monai("VNet", 9, 3, 1, 2),
    "monai resnet18": monai("resnet18", 8, spatial_dims=3, n_input_channels=1, num_classes=2),
    "monai ViT": monai("ViT", 4, 1, (32, 32, 32), (8, 8, 8), 32, 64, 2, 2, classification=True),
    "diffusers UNet2D": diffusers(
        "UNet2DModel",
        8,
        diffusion_inputs,
        sample_size=32,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    ),
    "diffusers AutoencoderKL": diffusers(
        "AutoencoderKL",
        10,
        images,
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ),
    "diffusers DiT": diffusers(
        "DiTTransformer2DModel",
        4,
        lambda: {
            "hidden_states": images(2, 4, 8, 8),
            "timestep": torch.tensor([1, 2]),
            "class_labels": torch.tensor([1, 2]),
        },
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        sample_size=8,
        in_channels=4,
    ),
    "open_clip RN50": Case(
        "open_clip", lambda library: library.create_model("RN50", force_image_size=64).visual, images, 16
    ),
    "open_clip ViT": Case(
        "open_clip",
        lambda library: library.create_model("ViT-B-32", force_image_size=64),
        lambda: (images(), torch.ones(2, 77, dtype=torch.long)),
        24,
        where=lambda site: site.kind == "residual" and site.grid is not None,
    ),
    "vit_pytorch ViT": vit_pytorch("vit", "ViT", 4),
    "vit_pytorch SimpleViT": vit_pytorch("simple_vit", "SimpleViT", 4),
    "timm vit": timm("vit_tiny_patch16_224", 24, img_size=64),
    "timm cait": timm("cait_xxs24_224", 48, img_size=64),
    "timm beit": timm("beit_base_patch16_224", 24, img_size=64),
    "timm nfnet": timm("nfnet_l0", 12),
    "timm mobileone": timm("mobileone_s0", 20),
    "timm repvgg": timm("repvgg_a0", 20),
    "timm deit distilled": timm("deit_tiny_distilled_patch16_224", 24, img_size=64),
    "timm registers": timm("vit_medium_patch16_reg4_gap_256", 24, img_size=64),
    "timm swin": timm("swin_tiny_patch4_window7_224", 24, img_size=64, window_size=4),
    "timm pvt_v2": timm("pvt_v2_b0", 16),
    "timm coatnet": timm("coatnet_nano_rw_224", 10, img_size=64),
    "timm twins": timm("twins_pcpvt_small", 30, img_size=64),
    "timm xcit": timm("xcit_nano_12_p16_224", 36, img_size=64),
    "timm mixer": timm("mixer_s32_224", 8, img_size=64),
    "timm features": timm("convnext_atto", 12, features_only=True),
    "timm mobilevit": timm("mobilevit_xxs", 2),
    "timm efficientnet": timm("efficientnet_lite0", 9),
    "timm davit": timm("davit_tiny", 40),
    "timm hrnet": timm("hrnet_w18_small", 30),
    "timm res2net": timm("res2net50_14w_8s", 16),
}


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Return the tensors that a model computes, with the same random numbers at each call."""
    args, kwargs = call_arguments(inputs)
    torch.manual_seed(3)
    return [t for t in tensors_within(model(*args, **kwargs)) if t.is_floating_point()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if CASES[name].always else pytest.mark.slow) for name in CASES]
)
@pytest.mark.filterwarnings("ignore")
def test_in_and_out(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    case = CASES[name]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    library = pytest.importorskip(case.package, reason=f"{name} needs {case.package}")
    torch.manual_seed(0)
    inputs = case.inputs()
    model = case.build(importlib.import_module(library.__name__)).eval()
    keys, before = list(model.state_dict()), outputs(model, inputs)

    plan = sc.attach(model, case.name, where=case.where, example_inputs=inputs, **case.options)
    assert len(plan) >= case.places
    assert same(outputs(model, inputs), before)
    assert [key for key in model.state_dict() if key in set(keys)] == keys

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        sum(y.square().mean() for y in outputs(model, inputs) if y.requires_grad).backward()  # type: ignore[union-attr]
        optimizer.step()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith(".attention.gate"):
                p.fill_(0.3)
    expected = outputs(model, inputs)
    model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch's drops the activations of timm's norms
    sc.repair(model)
    assert same(outputs(model, inputs), expected)
    assert len(sc.attached(model)) == len(plan)
    assert all(attachment.runs for attachment in sc.attached(model))

    weights = model.state_dict()
    assert len(sc.detach(model)) == len(plan)
    assert list(model.state_dict()) == keys
    sc.attach(model, case.name, where=case.where, example_inputs=inputs, **case.options)
    model.load_state_dict(weights)
    assert same(outputs(model, inputs), expected)


@pytest.mark.filterwarnings("ignore")
def test_a_network_without_residual_branches_names_what_it_has() -> None:
    nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed")
    with raises(sc.BadOption, owner="attach", option="where", value="residual"):
        sc.attach(
            nets.BasicUNet(3, 1, 2, features=(8, 8, 16, 16, 32, 8)),
            "se",
            example_inputs=images(1, 1, 32, 32, 32),
        )


def test_there_are_as_many_as_promised() -> None:
    assert len(CASES) >= 60
    assert sum(case.always for case in CASES.values()) >= 20
