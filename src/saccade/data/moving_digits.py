"""Moving digits: short clips in which the digit becomes another one for a moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from saccade.data.digits import Gray, Labeled, ink_box, read_digits
from saccade.data.task import Split, Task
from saccade.errors import BadOption, check_positive


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
    """Clips (3, T, H, W) of a digit that moves on straight lines and bounces. For a moment it is another one.

    The label is that other digit, the one of fewer frames. So a network has to read the digits, wherever
    they are, and to compare the frames. For K digits, T frames and a moment of m of them the error is

        1 - 1/K     by chance: 90% by default
        1 - m/T     from a single frame, by naming the digit that it shows: 75%
        1/4         at least, from any sum of scores s_k(frame), one for each class k

    The last is all that a linear classifier makes of a mean over frames. It is also all that it makes of a
    mean under weights that each frame has from itself alone, as those of `temporal_pool`: their common
    divisor leaves the order of the scores. Let (a, b) be a clip of a with a moment of b. To tell b from c in
    (a, b) and in (a, c), whose frames of a are the same, the m frames of b must favor b and those of c
    favor c, taken together; but in (b, c) and (c, b) the T - m frames of b and of c must do the contrary.
    So of these four clips a sum fails at one. What compares frames with one another does not.

    The mask is the box around the digit in the frames of the moment. The same arguments give the same task,
    bit for bit; no digit is in two splits.

    frames      T
    size        side of a frame in pixels; that of the digit is half of it
    moment      m, less than half of the frames, one after the other
    classes     the digits that occur, three or more of 0 to 9
    source      as of `digits`: "scikit-learn", offline; "mnist", "fashion_mnist", or a folder
    train, validation, test     numbers of clips

    Raises `BadOption` for values out of range, `BadData` for a source that cannot be used.

    >>> task = load_moving_digits(train=6, validation=4, test=4)
    >>> task.train.images.shape, task.train.masks.shape
    (torch.Size([6, 3, 8, 32, 32]), torch.Size([6, 8, 32, 32]))
    """
    check_positive(
        "moving-digits",
        frames=frames,
        size=size,
        moment=moment,
        train=train,
        validation=validation,
        test=test,
    )
    if size < 8:
        raise BadOption(f"moving-digits: size={size} must be at least 8, of which the digit has half")
    if 2 * moment >= frames:
        raise BadOption(f"moving-digits: moment={moment} must be less than half of the frames={frames}")
    distinct = {*classes} if isinstance(classes, Sequence) else set()
    if len(distinct) < 3 or len(distinct) < len(classes) or not distinct <= {*range(10)}:
        raise BadOption(f"moving-digits: classes={classes!r} must be three or more different digits, 0 to 9")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise BadOption(f"moving-digits: seed={seed!r} must be an integer of at least 0")
    splits = {}
    counts = {"train": train, "validation": validation, "test": test}
    for index, (part, digits) in enumerate(read_digits(source, root, seed).items()):
        rng = np.random.default_rng((seed, index))
        splits[part] = _clips(digits, counts[part], frames, size, moment, classes, rng)
    return Task("moving-digits", tuple(map(str, classes)), *splits.values())


def _clips(
    digits: Labeled,
    count: int,
    frames: int,
    size: int,
    moment: int,
    classes: Sequence[int],
    rng: np.random.Generator,
) -> Split:
    images, its = digits
    side = size // 2
    members = [np.flatnonzero(its == digit) for digit in classes]
    clips = np.zeros((count, frames, size, size), np.uint8)
    masks = np.zeros(clips.shape, bool)
    labels = rng.permutation(np.arange(count) % len(classes))
    for clip, mask, label in zip(clips, masks, labels, strict=True):
        usual = (label + rng.integers(1, len(classes))) % len(classes)
        rare_one, usual_one = (_resized(images[rng.choice(members[which])], side) for which in (label, usual))
        begin = rng.integers(frames - moment + 1)
        for frame, (top, left) in enumerate(_path(frames, size - side, rng)):
            is_rare = begin <= frame < begin + moment
            digit = rare_one if is_rare else usual_one
            place = (slice(top, top + side), slice(left, left + side))
            clip[frame][place] = digit
            if is_rare:
                mask[frame][place][ink_box(digit)] = True
    return Split(
        torch.from_numpy(clips).unsqueeze(1).repeat(1, 3, 1, 1, 1),
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(masks),
    )


def _path(frames: int, room: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a straight path through a square of side `room` that bounces at its edges, (frames, 2)."""
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.25) * room
    start = rng.uniform(0, room, 2)
    straight = start + np.arange(frames)[:, None] * speed * np.array([np.sin(angle), np.cos(angle)])
    return np.asarray(np.rint(room - np.abs(room - straight % (2 * room))), dtype=np.int64)


def _resized(image: Gray, side: int) -> Gray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
