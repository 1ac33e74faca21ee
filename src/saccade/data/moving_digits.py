"""Task `moving-digits`: short clips in which a digit is replaced by another one for a moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from saccade.data.checks import check_memory, check_not_negative
from saccade.data.digits import LabeledDigits, gray_split, ink_boxes, read_digits, resize
from saccade.data.task import PARTS, Split, Task
from saccade.errors import bad_option, check_positive

_TASK = "moving-digits"


def load_moving_digits(
    frames: int = 8,
    size: int = 32,
    moment: int = 2,
    classes: Sequence[int] = tuple(range(10)),
    source: str = "scikit-learn",
    train: int = 2000,
    validation: int = 400,
    test: int = 1000,
    root: str = "~/.cache/saccade",
    seed: int = 0,
) -> Task:
    """Generate clips (3, T, H, W) of a digit that moves on straight lines and is replaced for a moment.

    The digit bounces at the edges. The label is the other digit, which is visible in fewer frames. A model
    must therefore recognize digits at any position and compare frames. For K digits, T frames and a moment of
    m frames, the error is

        1 - 1/K     by chance: 90% by default
        1 - m/T     from a single frame, by naming the digit in it: 75%
        1/4         at least, from any sum of scores s_k(frame), one for each class k

    The last bound holds for a linear classifier of the mean over frames. It also holds for a weighted mean
    whose weights depend on each frame alone, as in `temporal_pool`: the common divisor does not change the
    order of the scores. Proof: Let (a, b) be a clip of digit a with a moment of digit b. The clips (a, b) and
    (a, c) share the frames of a. To distinguish them, the m frames of b must favor b and the m frames of c
    must favor c, taken together. In (b, c) and (c, b), the T - m frames of b and of c must do the opposite. A
    sum fails on at least one of these four clips. A model that compares frames does not have this limit.

    The mask is the bounding box of the other digit in the frames of the moment. Equal arguments give equal
    clips, bit for bit. No digit is in two splits.

    Args:
        frames: Number of frames T.
        size: Height and width of a frame in pixels. A digit has half of this size.
        moment: Number of successive frames m with the other digit, less than half of the frames.
        classes: The digits that occur: at least three of 0 to 9.
        source: As for `load_digits`: "scikit-learn" (bundled), "mnist", "fashion_mnist", or a folder.
        train: Number of training clips.
        validation: Number of validation clips.
        test: Number of test clips.
        root: Folder of the data sets of torchvision.
        seed: Seed of all random numbers.

    Raises:
        BadOption: A value is out of range.
        BadData: The source cannot be used.

    Example:
        >>> task = load_moving_digits(train=6, validation=4, test=4)
        >>> task.train.images.shape, task.train.masks.shape
        (torch.Size([6, 3, 8, 32, 32]), torch.Size([6, 8, 32, 32]))
    """
    counts = dict(zip(PARTS, (train, validation, test), strict=True))
    check_positive(_TASK, frames=frames, size=size, moment=moment, **counts)
    check_memory(_TASK, size, counts, frames)
    if size < 8:
        raise bad_option(_TASK, "must be at least 8; a digit has half of this size", size=size)
    if 2 * moment >= frames:
        raise bad_option(_TASK, f"must be less than half of frames={frames}", moment=moment)
    distinct = {*classes} if isinstance(classes, Sequence) else set()
    if len(distinct) < 3 or len(distinct) < len(classes) or not distinct <= {*range(10)}:
        raise bad_option(_TASK, "must be three or more different digits, 0 to 9", classes=classes)
    check_not_negative(_TASK, seed=seed)

    def generate(digits: LabeledDigits, count: int, rng: np.random.Generator) -> Split:
        images, digit_labels = digits
        side = size // 2
        members = [np.flatnonzero(digit_labels == digit) for digit in classes]
        clips = np.zeros((count, frames, size, size), np.uint8)
        masks = np.zeros(clips.shape, bool)
        labels = rng.permutation(np.arange(count) % len(classes))
        for clip, mask, label in zip(clips, masks, labels, strict=True):
            usual = (label + rng.integers(1, len(classes))) % len(classes)
            rare_digit, usual_digit = (resize(images[rng.choice(members[k])], side) for k in (label, usual))
            begin = rng.integers(frames - moment + 1)
            for frame, (top, left) in enumerate(_path(frames, size - side, rng)):
                is_rare = begin <= frame < begin + moment
                digit = rare_digit if is_rare else usual_digit
                place = (slice(top, top + side), slice(left, left + side))
                clip[frame][place] = digit
                if is_rare:
                    mask[frame][place] = ink_boxes(digit)
        return gray_split(clips, labels.astype(np.int64), masks)

    splits = (
        generate(digits, counts[part], np.random.default_rng((seed, index)))
        for index, (part, digits) in enumerate(read_digits(source, root, seed).items())
    )
    return Task(_TASK, tuple(map(str, classes)), *splits)


def _path(frames: int, room: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a straight path in a square of side `room` that bounces at the edges, (frames, 2)."""
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.25) * room
    start = rng.uniform(0, room, 2)
    straight = start + np.arange(frames)[:, None] * speed * np.array([np.sin(angle), np.cos(angle)])
    return np.asarray(np.rint(room - np.abs(room - straight % (2 * room))), dtype=np.int64)
