"""Data: tasks by name, each with three splits of labeled images."""

from saccade.data.digits import load_digits
from saccade.data.folder import load_folder
from saccade.data.huggingface import load_huggingface
from saccade.data.moving_digits import load_moving_digits
from saccade.data.python import load_python
from saccade.data.registry import TASKS, TaskChoice, load, load_task, resolve_task, task_names, with_options
from saccade.data.standard import load_standard
from saccade.data.task import Split, Task, TaskInfo
from saccade.data.white_patch import load_white_patch

__all__ = [
    "TASKS",
    "Split",
    "Task",
    "TaskChoice",
    "TaskInfo",
    "load",
    "load_digits",
    "load_folder",
    "load_huggingface",
    "load_moving_digits",
    "load_python",
    "load_standard",
    "load_task",
    "load_white_patch",
    "resolve_task",
    "task_names",
    "with_options",
]
