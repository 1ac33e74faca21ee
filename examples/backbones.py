# %% [markdown]
"""Attention in a ResNet-50, and the attention that a ViT already has: put in, seen, judged, taken out.

    python examples/backbones.py [--pretrained] [--out backbones]

A notebook in the form of a script: each `# %%` is a cell, for editors that run them one by one. Without
`--pretrained`, which downloads weights through timm, the networks have random ones: everything runs, and
what is seen means nothing yet.
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
    """Two photographs, (2, 3, side, side), normalized as ImageNet's networks want them."""
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
    # %% Where can attention go, and what would it cost?
    side = images.shape[-1]
    model = timm.create_model("resnet50", pretrained=pretrained, zero_init_last=False).eval()
    print(sc.sites(model, images, "cbam").of("stage"))
    before, keys = model(images), set(model.state_dict())

    # %% In: on every residual branch, and the network answers as it did, bit for bit.
    plan = sc.attach(model, "cbam", example_inputs=images)
    added = set(model.state_dict()) - keys
    print(
        f"{len(plan)} x CBAM, {sum(site.parameters or 0 for site in plan):,} parameters in {len(added)} keys"
    )
    assert torch.equal(model(images), before)
    assert keys < set(model.state_dict())  # a checkpoint of the plain network fits: load with strict=False

    # %% It trains: the gates from the first step, the rest from the second.
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(2):
        model.train()(images).logsumexp(1).sum().backward()
        optimizer.step()
    gate = model.get_parameter("layer4.2.bn3.attention.gate").item()
    print(f"the strength of the last place after two steps: {gate:+.1e}")

    # %% See where it looks.
    seen = sc.look(model.eval(), images, layers=["layer3.5", "layer4.2"], names=["cat", "coffee"])
    seen.save_html(out / "resnet50-cbam.html")
    seen.save_png(out)

    # %% Judge the map, against Grad-CAM of the same network.
    def attention(network: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad(), sc.record(network) as maps:
            network(images)
        return maps["layer4.2"].heatmap((side, side))

    def predict(x: torch.Tensor) -> torch.Tensor:
        probabilities: torch.Tensor = model(x).softmax(1)
        return probabilities

    heats = {"attention": attention(model), "Grad-CAM": grad_cam(model, images).heatmap((side, side))}
    for name, heat in heats.items():
        curves = evaluate_faithfulness(predict, images, heat, steps=4)
        gain = curves["positive"].auc_gain(over=curves["random"]).mean().item()
        print(f"{name}: explains the answer {gain:+.3f} better than a random map")
    check = sanity_check(model, attention, at="layer4.2.bn3.attention", layers=["layer4", "layer1"])
    print(
        f"after layer4 and layer1 are random, the attention's map correlates {check.mean()['spearman']:.2f}"
    )

    # %% Out again, without a trace.
    sc.detach(model)
    assert set(model.state_dict()) == keys


def vit(pretrained: bool, images: torch.Tensor, out: Path) -> None:
    # %% A ViT has attention already; it is recorded as it is, with fused kernels on.
    side = images.shape[-1]
    model = timm.create_model("vit_tiny_patch16_224", pretrained=pretrained, img_size=side).eval()
    with torch.no_grad(), sc.record(model) as maps:
        model(images)
    last = maps["blocks.11.attn"]
    assert isinstance(last, sc.PairwiseMap)
    print(
        f"{len(maps)} maps; where row 1, column 2 looks in the last: {tuple(last.attention_from(y=1, x=2).shape)}"
    )

    # %% All layers in one map: attention rollout.
    rolled = maps.rollout()
    print(f"rollout: {tuple(rolled.heatmap((side, side)).shape)}")

    # %% Click a patch to see where it looks.
    sc.look(model, images, names=["cat", "coffee"]).save_html(out / "vit.html")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("backbones"))
    parser.add_argument("--side", type=int, default=224, help="of the images, a multiple of 16")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    images = photographs(options.side)
    resnet(options.pretrained, images, options.out)
    vit(options.pretrained, images, options.out)
    print(f"pages and display_images: {options.out}")


if __name__ == "__main__":
    main()
