# %% [markdown]
# # Look at a vision transformer
#
# A vision transformer (ViT) cuts an image into patches, and each patch attends to all others. This
# notebook trains a small ViT to read digits, and shows where it looks: from the class token, from a single
# patch, in each layer and over all layers. The same lines work with the ViTs of timm, torchvision and
# transformers.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import saccade as sc
from saccade.config import Recipe
from saccade.data import load_task
from saccade.training import train

EPOCHS = 20
TASK = "digits:variant=translated,size=40"

# %% [markdown]
# ## Train
#
# Each image shows a digit of scikit-learn at a random position on a black canvas of 40 x 40 pixels. The
# ViT has 100 patches of 4 x 4 pixels, four layers and four heads. `train` writes the run as a folder, and
# `sc.load` reads it.

# %%
recipe = Recipe(
    task=TASK,
    backbone="vit:patch_size=4,width=64,depth=4,heads=4,mlp_width=128",
    epochs=EPOCHS,
    learning_rate=2e-3,
)
result = train(recipe, Path("runs/vit"))
print(f"test error: {result['error']:.1%}")
model = sc.load("runs/vit").eval()

# %% [markdown]
# ## Record
#
# `sc.record` keeps the attention of every layer while the model runs. Its results do not change by a bit.
# The maps hold queries and keys instead of all weights, so that recording takes little memory.

# %%
images = load_task(TASK).test.images[:6].float()
with torch.no_grad(), sc.record(model) as maps:
    predictions = model(images).argmax(1).tolist()
print(maps)

# %% [markdown]
# ## From the class token
#
# The model decides by its class token. The heat map of a layer is what this token attends to, averaged
# over the heads. *Rollout* multiplies the attention of all layers, so that it reaches from the output to
# the pixels.

# %%
paths = list(maps)
columns = {"image": images.mean(1)}
columns |= {f"layer {number}": maps[path].heatmap((40, 40)) for number, path in enumerate(paths)}
columns["rollout"] = maps.rollout().heatmap((40, 40))
figure, axes = plt.subplots(len(images), len(columns), figsize=(9, 9), layout="constrained")
for row, prediction in enumerate(predictions):
    for axis, (title, pictures) in zip(axes[row], columns.items(), strict=True):
        axis.imshow(pictures[row], cmap="gray" if title == "image" else "magma")
        axis.set_title(f"says {prediction}" if title == "image" else title, fontsize=9)
        axis.axis("off")
plt.show()

# %% [markdown]
# ## From one patch
#
# `attention_from` returns the row of a patch. The picture shows what four patches of the first image
# attend to in the last layer; a cross marks the patch. `sc.look` writes a page on which a click on a patch
# does the same.

# %%
last = maps[paths[-1]]
assert isinstance(last, sc.PairwiseMap)
figure, axes = plt.subplots(1, 4, figsize=(9, 2.6), layout="constrained")
for axis, (y, x) in zip(axes, [(1, 1), (3, 5), (5, 5), (7, 3)], strict=True):
    axis.imshow(last.attention_from(y=y, x=x)[0], cmap="magma")
    axis.plot(x, y, "wx")
    axis.axis("off")
plt.show()
print(sc.look(model, images).save_html("runs/vit.html"))
