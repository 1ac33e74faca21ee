"""Networks of other libraries, small, with random weights, and what attention runs in them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Build = Callable[..., tuple[nn.Module, int]]  # returns a network and the side of its images

_TIMM = [
    "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224", "cait_xxs24_224",
    "xcit_nano_12_p16_224", "coatnet_nano_rw_224", "maxvit_nano_rw_256", "hiera_tiny_224", "levit_128s",
    "pvt_v2_b0", "mvitv2_tiny", "davit_tiny", "edgenext_xx_small", "volo_d1_224", "twins_svt_small",
    "crossvit_tiny_240", "eva02_tiny_patch14_224", "vit_base_patch16_siglip_224", "nextvit_small",
    "tiny_vit_5m_224", "efficientvit_m0", "gcvit_xxtiny", "nest_tiny", "visformer_tiny",
    "tnt_s_legacy_patch16_224", "botnet26t_256", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256",
    "resnest14d", "skresnet18", "mobilevit_xxs", "convit_tiny", "coat_lite_tiny",
]  # fmt: skip
#: Networks that are always run; timm and torchvision are always installed.
CORE = {
    *(f"timm {name}" for name in _TIMM[:16]),
    "torchvision vit_b_16",
    "torchvision swin_t",
    "vit_pytorch ViT",
    "vit_pytorch CCT",
}


def _timm(name: str, **options: Any) -> tuple[nn.Module, int]:
    import timm

    model: Any = timm.create_model(name, num_classes=5, **options)
    return model, model.default_cfg["input_size"][-1]


def _hf(model: str, config: str, size: int = 64, **options: Any) -> Build:
    def build() -> tuple[nn.Module, int]:
        os.environ["HF_HUB_OFFLINE"] = "1"
        library = importlib.import_module("transformers")
        return getattr(library, model)(getattr(library, config)(**options)), size

    return build


def _call(module: str, name: str, *args: Any, size: int = 64, **options: Any) -> Build:
    def build() -> tuple[nn.Module, int]:
        return getattr(importlib.import_module(module), name)(*args, **options), size

    return build


def _yolo(name: str, size: int = 64) -> Build:
    def build() -> tuple[nn.Module, int]:
        library = importlib.import_module("ultralytics")
        create = library.RTDETR if name.startswith("rtdetr") else library.YOLO
        return create(f"{name}.yaml").model, size

    return build


_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_VIT: dict[str, Any] = {**_SMALL, "intermediate_size": 48, "image_size": 64, "patch_size": 16}
_SWIN: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 2,
    "window_size": 4,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 2],
}
DETR = {
    "use_timm_backbone": True,
    "use_pretrained_backbone": False,
    "backbone": "resnet18",
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_queries": 5,
}
_PLAIN = {
    "image_size": 64,
    "patch_size": 16,
    "num_classes": 5,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 48,
}
_DINO = {**_SMALL, "image_size": 56, "patch_size": 14}

#: How to build each network; the first word is the library.
NETWORKS: dict[str, Build] = {
    **{f"timm {name}": partial(_timm, name) for name in _TIMM},
    "torchvision vit_b_16": _call("torchvision.models", "vit_b_16", image_size=64),
    "torchvision swin_t": _call("torchvision.models", "swin_t", num_classes=5),
    "torchvision swin_v2_t": _call("torchvision.models", "swin_v2_t", num_classes=5),
    "torchvision maxvit_t": _call("torchvision.models", "maxvit_t", num_classes=5, size=224),
    "torchvision efficientnet_b0": _call("torchvision.models", "efficientnet_b0", num_classes=5),
    "vit_pytorch ViT": _call("vit_pytorch", "ViT", **_PLAIN),
    "vit_pytorch SimpleViT": _call("vit_pytorch", "SimpleViT", **_PLAIN),
    "vit_pytorch CaiT": _call(
        "vit_pytorch.cait", "CaiT", **{k: v for k, v in _PLAIN.items() if k != "depth"}, depth=2, cls_depth=1
    ),
    "vit_pytorch CCT": _call(
        "vit_pytorch.cct", "CCT", img_size=64, embedding_dim=32, n_conv_layers=2, kernel_size=3, stride=2,
        padding=1, num_layers=2, num_heads=2, mlp_ratio=1.0, num_classes=5,
    ),
    "vit_pytorch CvT": _call(
        "vit_pytorch.cvt", "CvT", num_classes=5, s1_emb_dim=16, s2_emb_dim=16, s3_emb_dim=16
    ),
    "transformers ViT": _hf("ViTForImageClassification", "ViTConfig", **_VIT),
    "transformers ViT, flex": _hf(
        "ViTForImageClassification", "ViTConfig", attn_implementation="flex_attention", **_VIT
    ),
    "transformers DeiT": _hf("DeiTForImageClassification", "DeiTConfig", **_VIT),
    "transformers BEiT": _hf("BeitForImageClassification", "BeitConfig", **_VIT),
    "transformers DINOv2": _hf("Dinov2ForImageClassification", "Dinov2Config", 56, **_DINO),
    "transformers DINOv2 registers": _hf(
        "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", 56, **_DINO
    ),
    "transformers DINOv3": _hf("DINOv3ViTModel", "DINOv3ViTConfig", **_VIT),
    "transformers ViT-MSN": _hf("ViTMSNForImageClassification", "ViTMSNConfig", **_VIT),
    "transformers CLIP": _hf("CLIPVisionModelWithProjection", "CLIPVisionConfig", **_VIT),
    "transformers SigLIP": _hf("SiglipVisionModel", "SiglipVisionConfig", **_VIT),
    "transformers Swin": _hf("SwinForImageClassification", "SwinConfig", **_SWIN),
    "transformers SwinV2": _hf("Swinv2ForImageClassification", "Swinv2Config", **_SWIN),
    "transformers SAM": _hf(
        "SamVisionModel", "SamVisionConfig", 96, **_SMALL, mlp_dim=48, image_size=96, patch_size=8,
        window_size=5, global_attn_indexes=[1], output_channels=16,
    ),
    "transformers SegFormer": _hf("SegformerForSemanticSegmentation", "SegformerConfig", num_labels=4),
    "transformers PVT": _hf("PvtForImageClassification", "PvtConfig", image_size=64),
    "transformers PVTv2": _hf("PvtV2ForImageClassification", "PvtV2Config", image_size=64),
    "transformers CvT": _hf("CvtForImageClassification", "CvtConfig"),
    "transformers LeViT": _hf("LevitForImageClassification", "LevitConfig", image_size=64),
    "transformers MobileViT": _hf("MobileViTForImageClassification", "MobileViTConfig", image_size=64),
    "transformers DETR": _hf("DetrForObjectDetection", "DetrConfig", 96, **DETR),
    "transformers Deformable DETR": _hf(
        "DeformableDetrForObjectDetection", "DeformableDetrConfig", 96, **DETR | {"decoder_layers": 2}
    ),
    "transformers YOLOS": _hf(
        "YolosForObjectDetection", "YolosConfig", **_VIT | {"image_size": [64, 64]}, num_detection_tokens=5
    ),
    "transformers Hiera": _hf(
        "HieraForImageClassification", "HieraConfig", 64, image_size=[64, 64], embed_dim=16,
        num_heads=[1, 2, 4, 8], depths=[1, 1, 1, 1],
    ),
    "ultralytics yolo11n": _yolo("yolo11n"),
    "ultralytics yolo12n": _yolo("yolo12n"),
    "ultralytics yolov8n-cls": _yolo("yolov8n-cls"),
    "ultralytics rtdetr-l": _yolo("rtdetr-l"),
    "segmentation_models_pytorch Unet scse": _call(
        "segmentation_models_pytorch", "Unet", "resnet18", encoder_weights=None, classes=4,
        decoder_attention_type="scse",
    ),
    "segmentation_models_pytorch MAnet": _call(
        "segmentation_models_pytorch", "MAnet", "resnet18", encoder_weights=None, classes=4
    ),
    "segmentation_models_pytorch Segformer": _call(
        "segmentation_models_pytorch", "Segformer", "mit_b0", encoder_weights=None, classes=4
    ),
    "monai ViT": _call(
        "monai.networks.nets", "ViT", 3, (64, 64), (16, 16), hidden_size=32, mlp_dim=48, num_layers=2,
        num_heads=2, classification=True, spatial_dims=2,
    ),
    "monai UNETR": _call(
        "monai.networks.nets", "UNETR", 3, 4, (64, 64), feature_size=8, hidden_size=32, mlp_dim=48,
        num_heads=2, spatial_dims=2,
    ),
    "monai SwinUNETR": _call("monai.networks.nets", "SwinUNETR", 3, 4, feature_size=12, spatial_dims=2),
    "monai AttentionUnet": _call("monai.networks.nets", "AttentionUnet", 2, 3, 4, (8, 16, 32), (2, 2)),
    "open_clip ViT": _call("open_clip.model", "VisionTransformer", 64, 16, 32, 2, 2, 1.0, output_dim=16),
    "open_clip ResNet": _call(
        "open_clip.modified_resnet", "ModifiedResNet", [1, 1, 1, 1], 16, 2, image_size=64, width=8
    ),
    "diffusers DiT": _call(
        "diffusers", "DiTTransformer2DModel", num_attention_heads=2, attention_head_dim=16, in_channels=3,
        num_layers=2, sample_size=16, size=16,
    ),
    "diffusers UNet2D": _call(
        "diffusers", "UNet2DModel", sample_size=16, block_out_channels=(32, 32), layers_per_block=1, size=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ),
}  # fmt: skip


def inputs_of(name: str, side: int, batch: int = 2) -> dict[str, Any]:
    """Return the inputs of a network: images, and what diffusers needs besides."""
    images = torch.rand(batch, 3, side, side)
    if name.startswith("transformers"):
        return {"pixel_values": images}
    if name == "diffusers DiT":
        labels = torch.zeros(batch, dtype=torch.long)
        return {"hidden_states": images, "timestep": labels, "class_labels": labels}
    if name == "diffusers UNet2D":
        return {"sample": images, "timestep": torch.tensor(3)}
    return {"": images}


def run(model: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    """Return all tensors of the output of a model."""
    from saccade._torch import tensors_in

    with torch.no_grad():
        output = model(inputs[""]) if "" in inputs else model(**inputs)
    return [x for x in _leaves(output) for x in tensors_in(x)]


def _leaves(output: Any) -> Iterator[Any]:
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, tuple | list):
        for value in output:
            yield from _leaves(value)
    else:
        yield output


@dataclass
class Operations(TorchFunctionMode):
    """Counts the attention that runs: fused calls, and softmaxes over keys of tensors (B, heads, Q, K)."""

    count: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in (F.scaled_dot_product_attention, F.multi_head_attention_forward):
            self.count += 1
        elif func in (F.softmax, torch.softmax, Tensor.softmax) and output.ndim > 3:
            dim = args[1] if len(args) > 1 else (kwargs or {}).get("dim")
            self.count += dim in (-1, output.ndim - 1)
        return output
