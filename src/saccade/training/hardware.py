"""The devices that a run is trained on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.strategies import StrategyRegistry

from saccade.config.recipe import check_integer
from saccade.errors import BadRecipe, UnknownName


@dataclass(frozen=True)
class Hardware:
    """What a run is trained on, in Lightning's terms.

    devices     how many GPUs, or processes of a CPU, on each node
    nodes       how many machines; each is to start the same command, as torchrun and SLURM do
    strategy    "auto", "ddp", "fsdp" ...: how several devices share the work

    Each device trains on an equal share of every batch. Where there is a GPU, batch norm takes its statistics
    from the whole batch; processes of a CPU cannot, and take them from their share.
    """

    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"

    def __post_init__(self) -> None:
        check_integer("devices", self.devices, at_least=1)
        check_integer("nodes", self.nodes, at_least=1)

    def check(self, batch_size: int) -> None:
        """Raise `UnknownName` if Lightning has no such strategy, `BadRecipe` if the machine lacks devices for
        it or they cannot share a batch equally.
        """
        if self.strategy != "auto" and self.strategy not in StrategyRegistry:
            raise UnknownName("strategy", self.strategy, ["auto", *StrategyRegistry.available_strategies()])
        world = self.devices * self.nodes
        if batch_size % world:
            raise BadRecipe(f"batch_size={batch_size} cannot be shared equally by {world} devices")
        gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
        if gpus and self.devices > gpus:
            raise BadRecipe(f"devices={self.devices}: this machine has {gpus} GPUs")
        if not gpus and self.devices > cores:
            raise BadRecipe(f"devices={self.devices}: this machine has no GPU and {cores} cores")
        if not gpus and "fsdp" in self.strategy:
            raise BadRecipe(f"strategy={self.strategy!r} needs a GPU; on a CPU there is 'ddp'")

    def options(self) -> dict[str, Any]:
        """Return these choices as options of Lightning's Trainer."""
        return {
            "devices": self.devices,
            "num_nodes": self.nodes,
            "strategy": self.strategy,
            "use_distributed_sampler": False,
            "sync_batchnorm": torch.cuda.is_available() and self.devices * self.nodes > 1,
        }


ONE_DEVICE = Hardware()
