"""Add attention to a ResNet-50, record it, evaluate its map and remove it; record the attention of a ViT.

    python examples/backbones.py [--pretrained] [--out backbones]

Without `--pretrained`, which downloads weights through timm, the models are random: everything runs, but the
maps mean nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import skimage.data
import timm
import torch
from PIL import Image
from torchvision.transforms import v2

import saccade as sc
from saccade.attribution import grad_cam
from saccade.metrics import evaluate_faithfulness, sanity_check


def photographs(side: int) -> torch.Tensor:
    """Return two photographs, (2, 3, side, side), normalized for ImageNet models."""
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(side),
            v2.CenterCrop(side),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    )
    images = [Image.fromarray(skimage.data.chelsea()), Image.fromarray(skimage.data.coffee())]
    return torch.stack([transform(image) for image in images])


def resnet(pretrained: bool, images: torch.Tensor, out: Path) -> None:
    # %% List the places that can take attention, and the cost of CBAM in each.
    side = images.shape[-1]
    model = timm.create_model("resnet50", pretrained=pretrained, zero_init_last=False).eval()
    print(sc.sites(model, images, "cbam").of("stage"))
    before, keys = model(images), set(model.state_dict())

    # %% Attach CBAM to every residual branch. The output stays the same bit for bit.
    plan = sc.attach(model, "cbam", example_inputs=images)
    added = set(model.state_dict()) - keys
    print(
        f"{len(plan)} x CBAM, {sum(site.parameters or 0 for site in plan):,} parameters in {len(added)} keys"
    )
    assert torch.equal(model(images), before)
    assert keys < set(model.state_dict())  # a checkpoint of the original model loads with strict=False

    # %% Train it: the gates change from the first step, the mechanisms from the second.
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(2):
        model.train()(images).logsumexp(1).sum().backward()
        optimizer.step()
    gate = model.get_parameter("layer4.2.bn3.attention.gate").item()
    print(f"gate of the last place after two steps: {gate:+.1e}")

    # %% Look at the attention.
    figure = sc.look(model.eval(), images, layers=["layer3.5", "layer4.2"], names=["cat", "coffee"])
    figure.save_html(out / "resnet50-cbam.html")
    figure.save_png(out)

    # %% Evaluate the map, and compare it with Grad-CAM of the same model.
    def attention(network: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad(), sc.record(network) as maps:
            network(images)
        return maps["layer4.2"].heatmap((side, side))

    def predict(x: torch.Tensor) -> torch.Tensor:
        probabilities: torch.Tensor = model(x).softmax(1)
        return probabilities

    heatmaps = {"attention": attention(model), "Grad-CAM": grad_cam(model, images).heatmap((side, side))}
    for name, heatmap in heatmaps.items():
        curves = evaluate_faithfulness(predict, images, heatmap, steps=4)
        gain = curves["positive"].auc_gain(over=curves["random"]).mean().item()
        print(f"{name}: AUC gain over a random map {gain:+.3f}")
    check = sanity_check(model, attention, at="layer4.2.bn3.attention", layers=["layer4", "layer1"])
    correlation = check.mean()["spearman"]
    print(f"rank correlation of the map after layer4 and layer1 are randomized: {correlation:.2f}")

    # %% Remove the attention: the original model is restored.
    sc.detach(model)
    assert set(model.state_dict()) == keys


def vit(pretrained: bool, images: torch.Tensor, out: Path) -> None:
    # %% Record the attention of a ViT. Fused kernels stay enabled.
    side = images.shape[-1]
    model = timm.create_model("vit_tiny_patch16_224", pretrained=pretrained, img_size=side).eval()
    with torch.no_grad(), sc.record(model) as maps:
        model(images)
    last = maps["blocks.11.attn"]
    assert isinstance(last, sc.PairwiseMap)
    shape = tuple(last.attention_from(y=1, x=2).shape)
    print(f"{len(maps)} maps; attention from row 1, column 2 in the last: {shape}")

    # %% Combine all layers in one map: attention rollout.
    print(f"rollout: {tuple(maps.rollout().heatmap((side, side)).shape)}")

    # %% Write a page on which a click on a patch shows where it attends.
    sc.look(model, images, names=["cat", "coffee"]).save_html(out / "vit.html")


def main(arguments: list[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pretrained", action="store_true", help="download trained weights")
    parser.add_argument("--out", type=Path, default=Path("backbones"), help="output folder")
    parser.add_argument("--side", type=int, default=224, help="image size, divisible by 16")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    images = photographs(options.side)
    resnet(options.pretrained, images, options.out)
    vit(options.pretrained, images, options.out)
    print(f"pages and images: {options.out}")


if __name__ == "__main__":
    main()
