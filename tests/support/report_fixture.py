"""A synthetic comparison, as `saccade compare` writes it: `python tests/support/report_fixture.py OUT`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray

from saccade.maps import AttentionMap, ChannelMap, PairwiseMap, SpatialMap
from saccade.results import SCHEMA, Gallery, compute_leaderboard, write_gallery

CONVOLVED = "multi_head:heads=4,projection=conv1d,kernel_size=3"
ATTENTIONS = ("none", "se", "multi_head:heads=4", CONVOLVED, "cbam")
SIDE, TOKENS, HEADS, WIDTH, IMAGES = 96, 24, 4, 8, 16
_KINDS = {"none": None, "se": "channel", "cbam": "spatial", "multi_head": "pairwise"}
_ERRORS = {"none": 0.094, "se": 0.086, "cbam": 0.061, "multi_head": 0.038}
_COSTS = {  # parameters, FLOPs, latency in ms, seconds of training
    "none": (2_795_000, 338e6, 4.1, 212),
    "se": (2_837_000, 339e6, 4.6, 236),
    "cbam": (2_839_000, 342e6, 5.9, 301),
    "multi_head": (3_846_000, 917e6, 9.7, 498),
}

Array = NDArray[Any]


def make(
    folder: Path,
    attentions: Sequence[str] = ATTENTIONS,
    *,
    seeds: int = 3,
    epochs: int = 12,
    masks: bool = True,
    scored: bool = False,
    maps: Mapping[str, AttentionMap] | None = None,
) -> Path:
    """Write `results.json` and the galleries of a comparison, and return its folder.

    `maps` replaces the maps of some attentions.
    """
    rng = np.random.default_rng(0)
    images, truth = _images(rng)
    labels: Array = np.asarray(truth.any((1, 2)), np.int64)
    runs: list[dict[str, Any]] = []
    for number, attention in enumerate(attentions):
        kind = _KINDS.get(attention.partition(":")[0], "spatial")
        attention_map = (maps or {}).get(attention) or _map(kind, images, truth, rng)
        for seed in range(seeds):
            run = _run(attention, number, seed, epochs, rng)
            run["folder"] = f"runs/{number}-seed{seed}"
            run["localization"] = _score(kind, rng) if masks and kind else None
            run["scores"] = _scores(kind, run["localization"], rng) if scored else None
            runs.append(run)
            out = folder / run["folder"]
            out.mkdir(parents=True)
            predictions, probabilities = _answers(labels, run["error"], rng)
            seen = Gallery(
                images=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
                labels=torch.from_numpy(labels),
                predictions=torch.from_numpy(predictions),
                probabilities=torch.from_numpy(probabilities),
                masks=torch.from_numpy(truth) if masks else None,
                map=attention_map,
            )
            write_gallery(out, seen)
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "saccade": "0.1.0",
        "command": f"saccade compare white-patch {' '.join(f'-a {a}' for a in attentions)} --seeds {seeds}",
        "recipe": {"task": "white-patch", "epochs": epochs, "optimizer": {"name": "adamw", "lr": 0.001}},
        "hardware": {
            "cpu": "AMD EPYC 7B13",
            "cores": 2,
            "gpu": None,
            "python": "3.11.2",
            "torch": "2.10.0",
            "platform": "Linux-6.1-x86_64",
        },
        "task": {
            "name": "white-patch",
            "classes": ["without", "with"],
            "train": 2000,
            "validation": 500,
            "test": 1000,
            "chance_error": 0.5,
            "masks": masks,
            "skipped": [],
        },
        "leaderboard": compute_leaderboard(runs),  # type: ignore[arg-type]
        "runs": runs,
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def _images(rng: np.random.Generator) -> tuple[Array, Array]:
    """Crops of photographs; half of them with a white square, and its mask."""
    photos = [getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")]
    images = np.zeros((IMAGES, SIDE, SIDE, 3), np.uint8)
    masks = np.zeros((IMAGES, SIDE, SIDE), bool)
    for k in range(IMAGES):
        photo = photos[k % len(photos)]
        y, x = (int(rng.integers(0, extent - 2 * SIDE)) for extent in photo.shape[:2])
        images[k] = photo[y : y + 2 * SIDE : 2, x : x + 2 * SIDE : 2]
        if k % 2:
            side = int(rng.integers(9, 17))
            top, left = rng.integers(4, SIDE - 4 - side, 2)
            masks[k, top : top + side, left : left + side] = True
            images[k][masks[k]] = 245
    return images, masks


def _run(attention: str, number: int, seed: int, epochs: int, rng: np.random.Generator) -> dict[str, Any]:
    mechanism = attention.partition(":")[0]
    other = (2_800_000 + 10_000 * number, 340e6 + 1e6 * number, 4.3 + 0.2 * number, 260)
    parameters, flops, latency, seconds = _COSTS.get(mechanism, other)
    error = _ERRORS.get(mechanism, 0.07) * (0.85 if "conv" in attention else 1) * (1 + 0.04 * seed)
    error = round(float(error + rng.normal(0, 0.003)), 3)
    epoch = np.arange(1, epochs + 1)
    fall = np.exp(-epoch / (2.5 + 0.4 * number)) * (1 + rng.normal(0, 0.12, epochs))
    validation = (error + 0.42 * fall).clip(0, 0.5)
    return {
        "attention": attention,
        "seed": seed,
        "error": error,
        "loss": 3 * error,
        "parameters": parameters + (57_000 if "conv" in attention else 0),
        "flops": int(flops * (1.08 if "conv" in attention else 1)),
        "latency_ms": latency * (1.1 if "conv" in attention else 1),
        "train_seconds": seconds + 9 * seed,
        "curves": {
            "epoch": epoch.tolist(),
            "train_loss": (2 * error + 0.6 * fall).tolist(),
            "train_error": validation.tolist(),
            "val_loss": (3 * error + 0.6 * fall).tolist(),
            "val_error": validation.tolist(),
        },
    }


def _score(kind: str, rng: np.random.Generator) -> dict[str, Any]:
    """Scores of one run: pairwise maps are high on the target, spatial ones low, channel ones neither."""
    best = {"pairwise": 0.71, "spatial": 0.48, "channel": 0.12}[kind] + float(rng.normal(0, 0.02))
    good = {"pointing": min(1, best + 0.2), "energy": 0.8 * best, "precision": best}
    poor = {"pointing": 0.01, "energy": 0.01, "precision": 0.012}
    positive, negative = (poor, good) if kind == "spatial" else (good, poor)
    return {"path": "attention", "kind": kind, "chance": 0.017, "positive": positive, "negative": negative}


def _scores(
    kind: str | None, localization: dict[str, Any] | None, rng: np.random.Generator
) -> dict[str, Any]:
    """Scores of the maps of one run, pairwise ones more faithful than the rest, and of Grad-CAM."""
    shares = np.linspace(0, 1, 11)

    def ranked(sharpness: float, **more: float) -> dict[str, Any]:
        rise = 1 - (1 - shares) ** sharpness
        insertion, deletion = rise.clip(0, 0.97), (1 - rise).clip(0.02, 1)
        areas = {"deletion": float(deletion.mean()), "insertion": float(insertion.mean())}
        return {**areas, "deletion_curve": deletion.tolist(), "insertion_curve": insertion.tolist(), **more}

    def judged(sharpness: float) -> dict[str, Any]:
        gain = 0.5 - 1 / (1 + sharpness) + float(rng.normal(0, 0.02))
        layers = [
            {"path": "head", "reaches": False, "spearman": 1.0, "ssim": 1.0},
            {"path": "stages.0", "reaches": True, "spearman": 0.3, "ssim": 0.1},
        ]
        return {
            "path": "attention",
            "kind": kind or "spatial",
            "localization": localization
            and {key: localization[key] for key in ("chance", "positive", "negative")},
            "positive": ranked(sharpness, auc_gain=gain),
            "negative": ranked(1 / sharpness, auc_gain=-gain),
            "sanity": {"spearman": 0.3 + float(rng.normal(0, 0.05)), "ssim": 0.1, "layers": layers},
        }

    own = {"attention": judged({"pairwise": 9.0, "spatial": 0.5, "channel": 1.1}[kind])} if kind else {}
    chance = ranked(1.0)
    facts = {"images": 100, "steps": 10, "shares": shares.tolist(), "random": chance, "center_prior": chance}
    return {**facts, **own, "grad_cam": judged(2.0)}


def _answers(labels: Array, error: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Predictions with four times the error of the run, so that few images have some, and probabilities."""
    wrong = rng.random(len(labels)) < 4 * error
    predictions = np.where(wrong, 1 - labels, labels)
    sure = np.where(wrong, rng.uniform(0.5, 0.8, len(labels)), rng.uniform(0.7, 1.0, len(labels)))
    probabilities = np.stack([np.where(predictions == c, sure, 1 - sure) for c in (0, 1)], 1)
    return predictions, probabilities.astype(np.float32)


def _map(kind: str | None, images: Array, masks: Array, rng: np.random.Generator) -> AttentionMap | None:
    if kind is None:
        return None
    patch = _shrink(masks.astype(np.float32), TOKENS)
    light = _shrink(images.mean(-1) / 255, TOKENS)
    if kind == "channel":
        energy = _shrink(light, 12) + 0.1 * rng.random((IMAGES, 12, 12))
        return ChannelMap(torch.rand(IMAGES, 8), torch.from_numpy(energy).float())
    if kind == "spatial":
        weights = 1 - patch - 0.3 * light + 0.15 * rng.random(patch.shape)
        return SpatialMap(torch.from_numpy(weights).float())
    queries, keys = map(torch.from_numpy, _factors(patch, light, rng))
    return PairwiseMap(queries, keys, WIDTH**-0.5, (TOKENS, TOKENS), (TOKENS, TOKENS))


def _factors(patch: Array, light: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Heads that attend to near positions, to the patch, to similar brightness, and to anything."""
    y, x = np.mgrid[0:TOKENS, 0:TOKENS].reshape(2, -1) / TOKENS * np.pi
    place = np.stack([np.cos(y), np.sin(y), np.cos(x), np.sin(x)], -1)
    queries = rng.normal(0, 0.4, (IMAGES, HEADS, TOKENS**2, WIDTH))
    keys = rng.normal(0, 0.4, (IMAGES, HEADS, TOKENS**2, WIDTH))
    queries[:, 0, :, :4] += 6 * place
    keys[:, 0, :, :4] += 6 * place
    keys[..., 4] *= 0.2
    for head, gain in ((1, 12.0), (2, 8.0)):
        queries[:, head, :, 4] += gain
        keys[:, head, :, 4] += patch.reshape(IMAGES, -1)
    queries[:, 2, :, 5] += 6 * (light.reshape(IMAGES, -1) - 0.5)
    keys[:, 2, :, 5] += 6 * (light.reshape(IMAGES, -1) - 0.5)
    return queries.astype(np.float16), keys.astype(np.float16)


def _shrink(maps: Array, side: int) -> Array:
    step = maps.shape[1] // side
    blocks: Array = maps.reshape(len(maps), side, step, side, step).mean((2, 4))
    return blocks


if __name__ == "__main__":
    make(Path(sys.argv[1]))
