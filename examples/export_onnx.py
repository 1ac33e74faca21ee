# %% [markdown]
# # Export a model and run it in onnxruntime
#
# A deployed model can still show where it looks. This notebook trains a small network with attention,
# exports it as an ONNX file together with its attention map, and runs the file without PyTorch.
#
#     pip install 'saccade[report,export]'

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import onnxruntime

import saccade as sc
from saccade.config import Recipe
from saccade.data import load_task
from saccade.training import train

EPOCHS = 6
TASK = "white-patch:size=48,train=600,validation=50,test=200"

# %% [markdown]
# ## Train
#
# Half of the images contain a white square; the label says only whether there is one. `sc.load` reads the
# model of the run. Its inputs are pixels from 0 to 255.

# %%
result = train(Recipe(task=TASK, attention="multi_head:heads=1", epochs=EPOCHS), Path("runs/deploy"))
print(f"test error: {result['error']:.1%}")
model = sc.load("runs/deploy").eval()

# %% [markdown]
# ## Export
#
# The file is compared with the model before it is written: at the size of the example, at two sizes that
# the export has not seen, and with other batch sizes. `errors` holds the largest difference of each size,
# relative to the largest output.

# %%
test = load_task(TASK).test
images, labels = test.images.float(), test.labels
exported = sc.export(model, "runs/model.onnx", images[:2], maps=True)
print("outputs:", ", ".join(exported.outputs))
for shape, error in exported.errors.items():
    print(f"{shape}: {error:.1e}")

# %% [markdown]
# ## Run
#
# onnxruntime needs NumPy arrays and no model code. The first output holds the scores of the classes, the
# second the map.

# %%
session = onnxruntime.InferenceSession("runs/model.onnx", providers=["CPUExecutionProvider"])
scores, attention = session.run(list(exported.outputs), {exported.inputs[0]: images.numpy()})
print(f"error in onnxruntime: {(scores.argmax(1) != labels.numpy()).mean():.1%}")

# %%
chosen = [index for index, label in enumerate(labels.tolist()) if label == 1][:4]
figure, axes = plt.subplots(2, 4, figsize=(9, 4.6), layout="constrained")
for column, index in zip(axes.T, chosen, strict=True):
    column[0].imshow(images[index].permute(1, 2, 0) / 255)
    column[1].imshow(attention[index], cmap="magma")
    for axis in column:
        axis.axis("off")
axes[0, 0].set_title("image", fontsize=9, loc="left")
axes[1, 0].set_title("map from onnxruntime", fontsize=9, loc="left")
plt.show()

# %% [markdown]
# The command line does the same for the run: `saccade export runs/deploy --to onnx --maps`. [Save, load
# and deploy](../deploy.md) describes programs of `torch.export`, fixed axes and what cannot be exported.
