"""Publications of several mechanisms."""

from __future__ import annotations

from saccade.layers.facts import Paper

CBAM_PAPER = Paper(
    "CBAM: Convolutional Block Attention Module",
    "Woo, Park, Lee, Kweon",
    2018,
    "https://arxiv.org/abs/1807.06521",
)
RAM_PAPER = Paper(
    "Recurrent Models of Visual Attention",
    "Mnih, Heess, Graves, Kavukcuoglu",
    2014,
    "https://arxiv.org/abs/1406.6247",
)
