# %% [markdown]
# # Compare eight mechanisms
#
# Which attention finds a small target? Half of the images of this task contain a white square, and the
# label says only whether there is one. This notebook trains the same small network without attention and
# with eight mechanisms, in less than a minute. A network this small, trained this briefly, shows how to
# compare, and not which mechanism is best; [Results](../results.md) holds measurements with more images,
# epochs and seeds.

# %%
from pathlib import Path

import matplotlib.pyplot as plt

from saccade.config import Comparison, Recipe
from saccade.experiments import compare
from saccade.results import read_gallery
from saccade.viz import write_report

EPOCHS = 4
SEEDS = 2
OUT = Path("runs/eight")
MECHANISMS = ("se", "eca", "spatial_gate", "cbam", "coordinate", "simam", "multi_head:heads=1", "non_local")

# %% [markdown]
# ## Train
#
# A comparison is a grid of attentions and seeds; everything else is the same in each run. Run the cell
# again to continue after an interruption: completed runs are kept. With more seeds, only the new runs are
# trained.

# %%
recipe = Recipe(task="white-patch:size=48,train=400,validation=50,test=200", epochs=EPOCHS)
results = compare(Comparison(("none", *MECHANISMS), seeds=SEEDS, training=recipe), OUT)
for row in results["leaderboard"]:
    print(f"{row['attention']:<20} {row['error']['mean']:6.1%}  {row['parameters']:7,} parameters")

# %% [markdown]
# ## Errors
#
# One dot for each seed. With two seeds, an interval is wide: do not read much into differences.

# %%
names = [row["attention"] for row in results["leaderboard"]][::-1]
figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
axis.plot(
    [100 * run["error"] for run in results["runs"]],
    [names.index(run["attention"]) for run in results["runs"]],
    "o",
    alpha=0.6,
)
axis.set_yticks(range(len(names)), names)
axis.set_xlabel("test error, %")
axis.set_xlim(left=0)
axis.grid(alpha=0.3)
plt.show()

# %% [markdown]
# ## Where they look
#
# Every run stores test images with its maps. A spatial map that marks the square may be bright there, or
# dark: a gate can mark a target by suppressing it. Mechanisms of channels alone have no map of positions.

# %%
galleries = {run["attention"]: read_gallery(OUT / run["folder"]) for run in results["runs"]}
first = galleries["cbam"]
chosen = [index for index, label in enumerate(first.labels) if label == 1][:3]
shown = {"image": first.images[:, 0]}
for name in ("spatial_gate", "cbam", "multi_head:heads=1", "non_local"):
    attention = galleries[name].map
    assert attention is not None
    shown[name] = attention.heatmap(first.images.shape[2:])
figure, axes = plt.subplots(len(chosen), len(shown), figsize=(9, 5.4), layout="constrained")
for row, index in zip(axes, chosen, strict=True):
    for axis, (title, pictures) in zip(row, shown.items(), strict=True):
        axis.imshow(pictures[index], cmap="gray" if title == "image" else "magma")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
plt.show()
print("the report, one page that works offline:", write_report(OUT))
