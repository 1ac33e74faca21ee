# %% [markdown]
# # Add a mechanism of your own
#
# A mechanism of another package works like those of saccade: it is created by name, inserted into models,
# recorded, checked, compared and exported. It is a function for the equation, a module for the parameters,
# and a `Spec` for the facts. This notebook writes one, which weights each position by the norm of its
# features.

# %%
import matplotlib.pyplot as plt
import skimage.data
import timm
import torch
from torch import Tensor, nn

import saccade as sc
from saccade.data import resize_and_crop
from saccade.errors import check_shape
from saccade.testing import check_mechanism

# %% [markdown]
# ## The mechanism
#
# The module checks the shape of its input, and publishes its map on a `Tap` while the model is recorded.
# `examples` lists the shapes that it accepts; everything that is checked is derived from them.


# %%
def norm_gate(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return sigma(w n + b), n the norm of the features of each position divided by its mean."""
    norm = x.square().mean(1, keepdim=True).add(1e-6).sqrt()
    return torch.sigmoid(weight * norm / norm.mean((2, 3), keepdim=True) + bias)


class NormGate(nn.Module):
    """Gate each position by the norm of its features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(()))
        self.tap = sc.Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("norm_gate", x, "B C H W", C=self.channels)
        gate = norm_gate(x, self.weight, self.bias)
        if self.tap.recording:
            self.tap.publish(sc.SpatialMap(gate[:, 0].detach()))
        return x * gate


SPEC = sc.Spec(
    name="norm_gate",
    domain="spatial",
    paper=sc.Paper("An example", "saccade", 2026, "https://example.org"),
    summary="gate each position by the norm of its features",
    module=NormGate,
    function=norm_gate,
    examples=(sc.Example("B C H W"),),
    maps=(sc.SpatialMap,),
)

# %% [markdown]
# ## Check it
#
# The contract covers shapes, gradients, dtypes, saving, recording, compilation and export. A failure says
# what to mend.

# %%
check_mechanism(SPEC)
print("norm_gate keeps the contract")

# %% [markdown]
# ## Use it
#
# `sc.register` adds the name to this process. A package adds it to every process, and so to the command
# line, with an entry point in its `pyproject.toml`:
#
# ```toml
# [project.entry-points."saccade.mechanisms"]
# norm_gate = "my_package.norm_gate:SPEC"
# ```

# %%
sc.register(SPEC)
torch.manual_seed(0)
pixels = torch.from_numpy(resize_and_crop(skimage.data.cat(), 224).copy()).permute(2, 0, 1)[None] / 255
model = timm.create_model("resnet18", num_classes=5).eval()
print(sc.attach(model, "norm_gate", where="stage", example_inputs=pixels))

# %% [markdown]
# ## See its map
#
# The network is not trained, so the map shows no more than where the features of random filters are
# strong.

# %%
look = sc.look(model, pixels)
figure, axes = plt.subplots(1, 1 + len(look.maps), figsize=(9, 2.2), layout="constrained")
axes[0].imshow(pixels[0].permute(1, 2, 0))
for axis, path in zip(axes[1:], look.maps, strict=True):
    axis.imshow(look.overlay(path))
    axis.set_title(path.partition(".attention")[0], fontsize=9)
for axis in axes:
    axis.axis("off")
plt.show()
