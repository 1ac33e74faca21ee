"""The schema of `saccade evaluate --json`, as `saccade.results.schema` has that of the files."""

from __future__ import annotations

from typing import Annotated, TypedDict

from saccade.results.schema import Interval, RunLocalization


class ClassError(TypedDict):
    """Test error of one class."""

    name: Annotated[str, "Name of the class."]
    images: Annotated[int, "Number of test images of the class, or with pixels of it."]
    error: Annotated[
        float | None, "Error on these images, or one minus the IoU of the class; null without images."
    ]


class Evaluation(TypedDict):
    """Output of `saccade evaluate --json`."""

    schema: Annotated[int, "Schema number."]
    network: Annotated[str, "The run folder or checkpoint."]
    attention: Annotated[str, "The attention of the run."]
    task: Annotated[str, "Name of the task."]
    images: Annotated[int, "Number of test images."]
    error: Annotated[
        Interval,
        "Test error with Wilson's 95% interval for a proportion; for segmentation, one minus the mean IoU, "
        "without an interval.",
    ]
    loss: Annotated[float, "Mean test loss (cross-entropy)."]
    chance_error: Annotated[float, "Error of always predicting the most frequent class."]
    classes: Annotated[list[ClassError], "Error per class."]
    confusion: Annotated[
        list[list[int]],
        "Confusion matrix of images or pixels: a row per true class, a column per prediction.",
    ]
    localization: Annotated[RunLocalization | None, "Localization; null without attention or masks."]
    skipped: Annotated[list[str], "Images that could not be read."]
