"""Loaders of images that are in memory: batches of indices, without workers or collation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from saccade.data import Split

Batch = tuple[Tensor, Tensor]
CPU = torch.device("cpu")


class Batches(Sampler[list[int]]):
    """Batches of indices.

    With a seed, for training, the order is a function of seed and epoch, and an incomplete last batch is
    dropped, because batch norm cannot learn from a single image. Several processes share each batch equally.

    Attributes:
        skip: Number of batches to skip at the start of the next epoch, once: those that a resumed run has
            trained on.

    Args:
        length: Number of images.
        batch_size: Images per batch, over all processes.
        seed: Seed of the order; None keeps the order of the images.
        rank: Index of this process.
        world: Number of processes.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int | None = None, rank: int = 0, world: int = 1
    ) -> None:
        self.length, self.batch_size, self.seed, self.epoch = length, batch_size, seed, 0
        self.rank, self.world, self.skip = rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.arange(self.length)
        if self.seed is not None:
            generator = torch.Generator().manual_seed((self.seed * 100_003 + self.epoch) % 2**63)
            order = torch.randperm(self.length, generator=generator)
        first, self.skip = self.skip, 0
        for batch in order[: len(self) * self.batch_size].split(self.batch_size)[first:]:
            yield batch[self.rank :: self.world].tolist()

    def __len__(self) -> int:
        whole, rest = divmod(self.length, self.batch_size)
        return whole + (rest > 0 and self.seed is None)


def make_loader(split: Split, batches: Batches, device: torch.device = CPU) -> DataLoader[tuple[Tensor, ...]]:
    """Return a loader of a split that is in memory, or already on the device that trains on it.

    Batches that go from memory to a GPU are pinned, so that the transfer is asynchronous.
    """
    pin_memory = device.type == "cuda" and split.images.device != device
    images: Dataset[tuple[Tensor, ...]] = TensorDataset(split.images, split.labels)
    if split.redraw is not None and batches.seed is not None:
        images = Redrawn(split, split.redraw, batches)
    return DataLoader(images, sampler=batches, batch_size=None, pin_memory=pin_memory)  # of whole batches


class Redrawn(Dataset[tuple[Tensor, ...]]):
    """Images that are drawn anew for each epoch.

    Args:
        split: The split. Its images are those of no epoch.
        redraw: Function that returns the images of an epoch.
        batches: The sampler, which knows the epoch.
    """

    def __init__(self, split: Split, redraw: Callable[[int], Tensor], batches: Batches) -> None:
        self.split, self.redraw, self.batches = split, redraw, batches
        self.images, self.epoch = split.images, -1

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, ...]:
        if self.epoch != self.batches.epoch:
            self.epoch = self.batches.epoch
            self.images = self.redraw(self.epoch).to(self.split.images.device)
        return self.images[indices], self.split.labels[indices]


def move_to_device_if_fits(splits: Sequence[Split], device: torch.device, free: int) -> list[Split]:
    """Move splits to the device, without their masks, if they take at most half of its free memory.

    Args:
        splits: The splits.
        device: The device.
        free: Free memory of the device in bytes.

    Example:
        >>> split = Split(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.long))
        >>> meta = torch.device("meta")
        >>> [move_to_device_if_fits([split], meta, free)[0].images.device.type for free in (1599, 1600)]
        ['cpu', 'meta']
    """
    tensors = [tensor for split in splits for tensor in (split.images, split.labels)]
    if 2 * sum(tensor.nbytes for tensor in tensors) > free:
        return list(splits)
    return [Split(s.images.to(device), s.labels.to(device), redraw=s.redraw) for s in splits]


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU in bytes; 0 for other devices."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0
