"""What another package adds to saccade: a mechanism, a task, an objective and an adapter."""

import torch
from torch import Tensor, nn

from saccade import Example, Paper, SpatialMap, Spec, Tap
from saccade.data import Split, Task
from saccade.errors import check_shape
from saccade.training import Classifier


def mean_gate(x: Tensor) -> Tensor:
    return torch.sigmoid(x.mean(1, keepdim=True))


class MeanGate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.scale = nn.Parameter(torch.ones(()))
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("mean_gate", x, "B C H W", C=self.channels)
        gate = mean_gate(self.scale * x)
        if self.tap.recording:
            self.tap.publish(SpatialMap(gate[:, 0].detach()))
        return x * gate


SPEC = Spec(
    name="mean_gate",
    domain="spatial",
    paper=Paper("", "", 2026, ""),
    summary="",
    module=MeanGate,
    function=mean_gate,
    examples=(Example("B C H W"),),
    maps=(SpatialMap,),
)


def stripes(size: int = 16) -> Task:
    def split(count: int) -> Split:
        labels = torch.arange(count) % 2
        images = torch.zeros(count, 3, size, size, dtype=torch.uint8)
        images[labels == 0, :, ::2] = 255
        images[labels == 1, :, :, ::2] = 255
        return Split(images, labels)

    return Task("stripes", ("rows", "columns"), split(20), split(10), split(10))


class ClassifyTwice(Classifier):
    """Cross entropy, doubled."""

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> dict[str, Tensor]:
        outputs = super().training_step(batch, index)
        return {**outputs, "loss": 2 * outputs["loss"]}


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean(1, keepdim=True).sigmoid()


ADAPTERS = {Gate: lambda _module, inputs, _output: SpatialMap(inputs["x"].mean(1).sigmoid())}
