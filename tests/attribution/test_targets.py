"""Targets: scores in outputs of many forms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import saccade as sc
from saccade.attribution import detection_score, segmentation_score, similarity
from saccade.attribution.targets import target_scores
from support.errors import raises

SCORES = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 4.0]])


@pytest.mark.parametrize(
    "output",
    [
        SCORES,
        {"logits": SCORES, "hidden": torch.zeros(2, 4)},
        {"out": SCORES},
        SimpleNamespace(logits=SCORES),
        SimpleNamespace(logits=None, logits_per_image=SCORES),
        (torch.zeros(2, 4, 4, 4), SCORES),
        [SCORES],
    ],
)
def test_scores_are_found(output: Any) -> None:
    assert target_scores("f", output, None).tolist() == [3.0, 5.0]
    assert target_scores("f", output, 2).tolist() == [2.0, 4.0]
    assert target_scores("f", output, [0, 1]).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("output", [None, "text", {"a": SCORES}, torch.zeros(2, 3, 4), ()])
def test_an_output_without_scores_needs_a_function(output: Any) -> None:
    with raises(sc.BadShape, owner="f", option="target"):
        target_scores("f", output, 0)


def test_segmentation_scores_are_means_over_the_predicted_mask() -> None:
    y = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = y.argmax(1) == 2
    expected = [y[i, 2][mask[i]].mean() for i in range(2)]
    torch.testing.assert_close(segmentation_score(2)((y,)), torch.stack(expected))
    never = y.clone()
    never[:, 1] = -9
    torch.testing.assert_close(segmentation_score(1)(never), torch.tensor([-9.0, -9.0]))
    with raises(sc.BadOption, owner="segmentation_score", option="category", value=3):
        segmentation_score(3)(y)
    modes = [int(y[i].argmax(0).flatten().mode().values) for i in range(2)]
    most = [y[i, k][y[i].argmax(0) == k].mean() for i, k in enumerate(modes)]
    torch.testing.assert_close(segmentation_score()(y), torch.stack(most))
    one = y[:, :1]
    positive = [one[i][one[i] > 0].mean() for i in range(2)]
    torch.testing.assert_close(segmentation_score()(one), torch.stack(positive))
    with raises(sc.BadShape, owner="segmentation_score", option="model"):
        segmentation_score(0)(SCORES)


def test_detection_scores_are_sums_over_boxes() -> None:
    boxes = [{"scores": torch.tensor([0.2, 0.9, 0.8]), "labels": torch.tensor([1, 1, 2])}]
    assert detection_score(top=2)(boxes).item() == pytest.approx(1.7)
    assert detection_score(2, top=5)(boxes).item() == pytest.approx(0.8)
    with raises(sc.BadOption, owner="detection_score", option="category", value=3):
        detection_score(3)(boxes)
    logits = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(2)[:, :, :3]
    torch.testing.assert_close(detection_score()({"pred_logits": logits}), p.amax((1, 2)))
    torch.testing.assert_close(
        detection_score(1, top=3)({"logits": logits}), p[:, :, 1].topk(3).values.sum(1)
    )
    raw = torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(detection_score()((raw, None)), raw[:, 4:].amax((1, 2)))
    with raises(sc.BadShape, owner="detection_score", option="model", value=(2, 3)):
        detection_score()(SCORES)
    with raises(sc.BadOption, owner="detection_score", option="category", value=3):
        detection_score(3)(raw)


def test_similarity_is_a_cosine() -> None:
    text = torch.tensor([1.0, 1.0, 0.0])
    expected = SCORES @ text / SCORES.norm(dim=1) / text.norm()
    torch.testing.assert_close(similarity(text)(SCORES), expected)
    torch.testing.assert_close(similarity(text)(SimpleNamespace(image_embeds=SCORES)), expected)
    with raises(sc.BadShape, owner="similarity", option="model", value=(2, 3)):
        similarity(torch.ones(4))(SCORES)
