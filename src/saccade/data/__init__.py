"""Data: tasks by name, each with three splits of labeled images or clips."""

from saccade.data.clips import contact_sheet, heat_sheet
from saccade.data.digits import load_digits
from saccade.data.folder import load_folder
from saccade.data.huggingface import load_huggingface
from saccade.data.images import (
    BadImage,
    Photograph,
    as_rgb,
    center_crop,
    image_files,
    read_image,
    resize_and_crop,
    resize_shorter_side,
)
from saccade.data.moving_digits import load_moving_digits
from saccade.data.python import load_python
from saccade.data.registry import TASKS, TaskChoice, load, load_task, resolve_task, task_names, with_options
from saccade.data.segmentation import load_segmentation
from saccade.data.task import IGNORED, Split, Task, TaskInfo
from saccade.data.torchvision_sets import load_torchvision
from saccade.data.white_patch import load_white_patch

__all__ = [
    "IGNORED",
    "TASKS",
    "BadImage",
    "Photograph",
    "Split",
    "Task",
    "TaskChoice",
    "TaskInfo",
    "as_rgb",
    "center_crop",
    "contact_sheet",
    "heat_sheet",
    "image_files",
    "load",
    "load_digits",
    "load_folder",
    "load_huggingface",
    "load_moving_digits",
    "load_python",
    "load_segmentation",
    "load_task",
    "load_torchvision",
    "load_white_patch",
    "read_image",
    "resize_and_crop",
    "resize_shorter_side",
    "resolve_task",
    "task_names",
    "with_options",
]
