"""Devices of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from saccade.config import check_integer
from saccade.errors import UnknownName, bad_recipe

#: Strategies of Lightning that start no process of their own and run the same training loop.
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "fsdp")


@dataclass(frozen=True)
class Hardware:
    """Devices that a run is trained on, with the names of Lightning's `Trainer`.

    Each device trains on an equal share of every batch. On GPUs, batch norm uses the statistics of the whole
    batch. CPU processes cannot synchronize it, and use the statistics of their share.

    Attributes:
        devices: Number of GPUs per node or, without a GPU, of CPU processes.
        nodes: Number of machines. Each must run the same command, as with torchrun and SLURM.
        strategy: How several devices share the work, one of `STRATEGIES`.

    Raises:
        BadRecipe: A number is not positive.
    """

    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"

    def __post_init__(self) -> None:
        check_integer("devices", self.devices)
        check_integer("nodes", self.nodes)

    @property
    def world(self) -> int:
        """The number of devices of all nodes."""
        return self.devices * self.nodes

    def check(self, batch_size: int) -> None:
        """Check that this machine can train batches of a size.

        Raises:
            UnknownName: The strategy is none of `STRATEGIES`.
            BadRecipe: The machine has too few devices or no GPU, or the devices cannot share a batch equally.
        """
        if self.strategy not in STRATEGIES:
            raise UnknownName("strategy", self.strategy, STRATEGIES, owner="train")
        if batch_size % self.world:
            problem = f"is not divisible by the number of devices, {self.world}"
            raise bad_recipe(problem, batch_size=batch_size)
        gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
        if self.devices > (gpus or cores):
            machine = f"{gpus} GPUs" if gpus else f"no GPU and {cores} cores"
            raise bad_recipe(f"is too many: this machine has {machine}", devices=self.devices)
        if not gpus and "fsdp" in self.strategy:
            raise bad_recipe("needs a GPU; use 'ddp' on a CPU", strategy=self.strategy)


ONE_DEVICE = Hardware()
