"""Networks of other libraries with random weights, to which attention is attached by the default call."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from support.external_networks import NETWORKS, inputs_of


@dataclass(frozen=True)
class Case:
    """A network and the call of `attach`.

    Attributes:
        build: Returns the network and its example inputs.
        places: The least number of places that take CBAM.
        unfit: Whether the default call is refused, and `skip_unfit=True` needed.
    """

    build: Callable[[], tuple[nn.Module, Any]]
    places: int
    unfit: bool = False


def images(*shape: int) -> Tensor:
    return torch.rand(*(shape or (2, 3, 64, 64)), generator=torch.Generator().manual_seed(1))


def pixels() -> dict[str, Tensor]:
    return {"pixel_values": images()}


def case(build: Callable[[], nn.Module], inputs: Callable[[], Any], places: int) -> Case:
    return Case(lambda: (build(), inputs()), places)


def made(module: str, name: str, *args: Any, **options: Any) -> Callable[[], nn.Module]:
    """Return a function that imports a module and calls its function or class."""
    return lambda: getattr(importlib.import_module(module), name)(*args, **options)


VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 16,
}
MAPS: dict[str, Any] = {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1]}


def hugging_face(name: str, head: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        library = importlib.import_module("transformers")
        config = getattr(library, f"{name}Config")(**options)
        return getattr(library, f"{name}{head}")(config)  # type: ignore[no-any-return]

    return build


def vit_of(name: str, places: int = 2, head: str = "ForImageClassification", **options: Any) -> Case:
    return case(hugging_face(name, head, {**VIT, **options}), pixels, places)


def maps_of(name: str, places: int, head: str = "ForImageClassification", **options: Any) -> Case:
    return case(hugging_face(name, head, {**MAPS, **options}), pixels, places)


def yolo(name: str, places: int) -> Case:
    return case(lambda: importlib.import_module("ultralytics").YOLO(f"{name}.yaml").model, images, places)


def smp(name: str, places: int, encoder: str = "resnet18") -> Case:
    return case(made("segmentation_models_pytorch", name, encoder, encoder_weights=None), images, places)


def monai(name: str, places: int, *args: Any, **options: Any) -> Case:
    return case(made("monai.networks.nets", name, *args, **options), lambda: images(2, 1, 32, 32, 32), places)


def diffusers(name: str, places: int, inputs: Callable[[], Any], **options: Any) -> Case:
    return case(made("diffusers", name, **options, norm_num_groups=4), inputs, places)


def timm(name: str, places: int, **options: Any) -> Case:
    return case(made("timm", "create_model", name, **options), images, places)


def torchvision(
    name: str,
    places: int,
    inputs: Callable[[], Any] = images,
    module: str = "torchvision.models",
    **options: Any,
) -> Case:
    return case(made(module, name, **options), inputs, places)


def vit_pytorch(module: str, name: str, places: int, **options: Any) -> Case:
    sizes = {"image_size": 64, "patch_size": 16, "num_classes": 3, "dim": 32, "depth": 2, "heads": 2}
    return case(made(f"vit_pytorch.{module}", name, **{**sizes, "mlp_dim": 64, **options}), images, places)


def diffusion_inputs() -> dict[str, Tensor]:
    return {"sample": images(2, 3, 32, 32), "timestep": torch.tensor([1, 2])}


_DETECTOR: dict[str, Any] = {
    "weights": None,
    "weights_backbone": None,
    "min_size": 64,
    "max_size": 96,
    "score_thresh": 0.0,
}

CASES = {
    **{
        f"transformers {name}": vit_of(name)
        for name in ("ViT", "DeiT", "ViTMSN", "Dinov2", "Dinov2WithRegisters")
    },
    **{f"transformers {name}": vit_of(name, 4) for name in ("Beit", "Data2VecVision", "IJepa")},
    "transformers CLIPVision": vit_of("CLIPVision", 4, "Model"),
    "transformers DINOv3ViT": vit_of("DINOv3ViT", 4, "Model"),
    "transformers ConvNext": maps_of("ConvNext", 4),
    "transformers ConvNextBackbone": case(
        hugging_face("ConvNext", "Backbone", {**MAPS, "out_features": ["stage2", "stage4"]}), pixels, 4
    ),
    "transformers ResNet": maps_of("ResNet", 4, embedding_size=16, layer_type="basic"),
    "transformers RegNet": maps_of("RegNet", 4, embedding_size=16, groups_width=8),
    "transformers Bit": maps_of("Bit", 4, embedding_size=16, num_groups=4),
    "transformers PoolFormer": maps_of("PoolFormer", 8),
    "transformers MobileNetV2": case(hugging_face("MobileNetV2", "ForImageClassification", {}), pixels, 10),
    "transformers Swin": case(
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
    "transformers AST": case(
        hugging_face("AST", "ForAudioClassification", {**VIT, "max_length": 64, "num_mel_bins": 32}),
        lambda: {"input_values": images(2, 64, 32)},
        2,
    ),
    "transformers Wav2Vec2": case(
        hugging_face(
            "Wav2Vec2",
            "Model",
            {
                **VIT,
                "conv_dim": (16, 16),
                "conv_stride": (5, 2),
                "conv_kernel": (10, 3),
                "num_feat_extract_layers": 2,
                "num_conv_pos_embeddings": 16,
                "num_conv_pos_embedding_groups": 4,
            },
        ),
        lambda: {"input_values": images(2, 4000)},
        5,
    ),
    "transformers MobileNetV1": case(hugging_face("MobileNetV1", "ForImageClassification", {}), pixels, 5),
    "transformers VideoMAE": case(
        hugging_face("VideoMAE", "ForVideoClassification", {**VIT, "image_size": 32, "num_frames": 8}),
        lambda: {"pixel_values": images(2, 8, 3, 32, 32)},
        4,
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
        f"segmentation_models_pytorch {name}": smp(name, places)
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
    "segmentation_models_pytorch Unet of mit_b0": smp("Unet", 16, "mit_b0"),
    "monai UNet": monai("UNet", 5, 3, 1, 2, (8, 16, 32), (2, 2), num_res_units=2),
    "monai SegResNet": monai("SegResNet", 15, 3, init_filters=8),
    "monai DynUNet": monai(
        "DynUNet", 3, 3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 32], res_block=True
    ),
    "monai VNet": monai("VNet", 9, 3, 1, 2),
    "monai resnet18": monai("resnet18", 8, spatial_dims=3, n_input_channels=1, num_classes=2),
    "monai BasicUNet": monai("BasicUNet", 4, 3, 1, 2, (8, 8, 16, 16, 32, 8)),
    "monai UNet of sequences": case(
        made("monai.networks.nets", "UNet", 1, 1, 2, (8, 16, 32), (2, 2), num_res_units=2),
        lambda: images(2, 1, 64),
        5,
    ),
    "monai ViT of volumes": monai("ViT", 2, 1, (32, 32, 32), (8, 8, 8), 32, 64, 2, 2, classification=True),
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
    "open_clip RN50": case(
        lambda: importlib.import_module("open_clip").create_model("RN50", force_image_size=64).visual,
        images,
        16,
    ),
    "open_clip ViT-B-32": case(
        made("open_clip", "create_model", "ViT-B-32", force_image_size=64),
        lambda: (images(), torch.ones(2, 77, dtype=torch.long)),
        22,
    ),
    "vit_pytorch ViT": vit_pytorch("vit", "ViT", 2),
    "vit_pytorch SimpleViT": vit_pytorch("simple_vit", "SimpleViT", 4),
    "timm vit": timm("vit_tiny_patch16_224", 22, img_size=64),
    "timm cait": timm("cait_xxs24_224", 16, img_size=64, depth=8),
    "timm beit": timm("beit_base_patch16_224", 8, img_size=64, embed_dim=96, depth=4, num_heads=4),
    "timm nfnet": timm("nfnet_l0", 12),
    "timm mobileone": timm("mobileone_s0", 20),
    "timm repvgg": timm("repvgg_a0", 20),
    "timm deit distilled": timm("deit_tiny_distilled_patch16_224", 22, img_size=64),
    "timm registers": timm("vit_medium_patch16_reg4_gap_256", 8, img_size=64, depth=4),
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
    "timm hrnet": timm("hrnet_w18_small", 40),
    "timm res2net": timm("res2net50_14w_8s", 88),
    "torchvision resnet18": torchvision("resnet18", 8),
    "torchvision densenet121": torchvision("DenseNet", 3, growth_rate=16, block_config=(2, 3, 2)),
    "torchvision regnet_y_400mf": torchvision("regnet_y_400mf", 16),
    "torchvision mobilenet_v3_small": torchvision("mobilenet_v3_small", 6),
    "torchvision convnext_tiny": torchvision("convnext_tiny", 18),
    "torchvision r3d_18": torchvision(
        "r3d_18", 8, lambda: images(2, 3, 4, 32, 32), "torchvision.models.video"
    ),
    "torchvision deeplabv3_resnet50": torchvision(
        "deeplabv3_resnet50",
        16,
        images,
        "torchvision.models.segmentation",
        weights=None,
        weights_backbone=None,
    ),
    "torchvision fcos_resnet50_fpn": torchvision(
        "fcos_resnet50_fpn",
        16,
        lambda: [*images(2, 3, 64, 64)],
        "torchvision.models.detection",
        **_DETECTOR,
    ),
}


#: The same networks with fewer equal blocks, for the tests.
SHALLOW = {
    "timm vit": timm("vit_tiny_patch16_224", 2, img_size=64, depth=2),
    "timm cait": timm("cait_xxs24_224", 4, img_size=64, depth=2),
    "timm nfnet": timm("nfnet_l0", 4, depths=(1, 1, 1, 1)),
    "timm deit distilled": timm("deit_tiny_distilled_patch16_224", 2, img_size=64, depth=2),
    "timm registers": timm("vit_medium_patch16_reg4_gap_256", 4, img_size=64, depth=2),
    "timm swin": timm("swin_tiny_patch4_window7_224", 10, img_size=64, window_size=4, depths=(2, 1, 1, 1)),
    "timm coatnet": timm("coatnet_nano_rw_224", 6, img_size=64, depths=(1, 1, 1, 1)),
    "timm twins": timm("twins_pcpvt_small", 12, img_size=64, depths=(1, 1, 1, 1)),
    "timm xcit": timm("xcit_nano_12_p16_224", 9, img_size=64, depth=2),
    "timm features": timm("convnext_atto", 4, features_only=True, depths=(1, 1, 1, 1)),
    "timm davit": timm("davit_tiny", 32, depths=(1, 1, 1, 1), embed_dims=(24, 48, 96, 192)),
    "timm res2net": timm("res2net50_14w_8s", 4, layers=(1, 1, 1, 1)),
}


#: Networks with tokens whose grid is unknown, such as the queries of a detector.
_UNFIT = {"transformers DETR", "transformers YOLOS", "timm tnt_s_legacy_patch16_224"}
#: Networks of `external_networks` that are in `CASES` in another size or under another name.
_SAME = {
    *(f"transformers {name}" for name in ("BEiT", "DINOv2", "DINOv2 registers", "DINOv3", "ViT-MSN", "CLIP")),
    "transformers SegFormer",
    "diffusers UNet2D",
    *(
        f"timm {name}"
        for name in (
            "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224",
            "cait_xxs24_224", "xcit_nano_12_p16_224", "coatnet_nano_rw_224", "pvt_v2_b0", "davit_tiny",
            "swin_tiny_patch4_window7_224", "mobilevit_xxs",
        )
    ),
}  # fmt: skip


def recorded(name: str) -> Case:
    """Return the case of a network of `external_networks`."""

    def build() -> tuple[nn.Module, Any]:
        model, side = NETWORKS[name]()
        inputs = inputs_of(name, side)
        return model, inputs.get("", inputs)

    return Case(build, 1, unfit=name in _UNFIT)


#: All networks: those of the tests, and further ones that take longer.
EVERY = {**CASES, **{name: recorded(name) for name in NETWORKS if name not in _SAME | CASES.keys()}}
