# %% [markdown]
# # Read the glimpses of a recurrent model
#
# The recurrent attention model (RAM, Mnih et al. 2014) never sees a whole image. It looks at a small
# patch, decides where to look next, and names the class after its last glimpse. The choice of a location
# has no gradient, so the model learns it by trial and reward (REINFORCE). This notebook trains it for a
# minute and reads its glimpses.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import saccade as sc
from saccade.config import Recipe
from saccade.data import load_task
from saccade.training import train

EPOCHS = 40
TASK = "digits"

# %% [markdown]
# ## Train
#
# The images are digits of scikit-learn, 28 x 28. The model takes six glimpses of 8 x 8 pixels. The recipes
# `ram-mnist`, `ram-translated` and `ram-cluttered` train longer and on more images;
# [Results](../results.md) shows their errors.

# %%
recipe = Recipe(
    task=TASK,
    objective="recurrent:num_samples=10",
    backbone="ram:glimpses=6,size=8",
    epochs=EPOCHS,
    batch_size=64,
    learning_rate=1e-3,
    schedule="cosine",
    grad_clip=5.0,
)
result = train(recipe, Path("runs/ram"))
print(f"test error: {result['error']:.1%}")
model = sc.load("runs/ram").eval()

# %% [markdown]
# ## Look
#
# The numbers give the order of the glimpses, and a square shows what each of them covers. The first
# location is random. The others are drawn around the mean that the model computes; in evaluation the draws
# are seeded, so that the same batch always has the same glimpses.

# %%
task = load_task(TASK)
images, labels = task.test.images[:8].float(), task.test.labels[:8].tolist()
enlarged = task.test.images[:8].repeat_interleave(10, 2).repeat_interleave(10, 3).permute(0, 2, 3, 1)
look = sc.look(model, images, layers="model", display_images=[*enlarged.numpy()])
figure, axes = plt.subplots(2, 4, figsize=(9, 4.8), layout="constrained")
for index, axis in enumerate(axes.flat):
    axis.imshow(look.overlay("model", index, alpha=0.3))
    axis.set_title(f"a {labels[index]}", fontsize=9)
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Locations as numbers
#
# `sc.record` returns the locations as a `FixationMap`: x and y from -1 to 1, from the upper left to the
# lower right.

# %%
with torch.no_grad(), sc.record(model) as maps:
    model(images)
fixations = maps["model"]
assert isinstance(fixations, sc.FixationMap)
for number, (x, y) in enumerate(fixations.locations[0].tolist(), start=1):
    print(f"glimpse {number}: x {x:+.2f}, y {y:+.2f}")

# %% [markdown]
# ## Where it looks on average
#
# The mean of the heat maps of many images shows the policy: where glimpses go, whatever the digit is.

# %%
with torch.no_grad(), sc.record(model) as maps:
    model(task.test.images.float())
fixations = maps["model"]
figure, axes = plt.subplots(1, 2, figsize=(6, 3), layout="constrained")
axes[0].imshow(task.test.images.float().mean((0, 1)), cmap="gray")
axes[0].set_title("mean image", fontsize=9)
axes[1].imshow(fixations.saliency().mean(0), cmap="magma")
axes[1].set_title("mean glimpses", fontsize=9)
for axis in axes:
    axis.axis("off")
plt.show()
