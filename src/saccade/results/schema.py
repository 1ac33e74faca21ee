"""The schema of every JSON file: each field is typed and described here, and nowhere else.

Writers build these dictionaries, readers validate files against them (`saccade.results.io`), and
docs/file-formats.md is generated from them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict, final

#: Schema number of all files. Files with another number are refused.
SCHEMA = 2
#: Name of the attention that stands for the model without attention.
BASELINE = "none"

Polarity = Literal["positive", "negative"]
POLARITIES: tuple[Polarity, Polarity] = ("positive", "negative")


class Interval(TypedDict):
    """A mean with its 95% confidence interval."""

    mean: Annotated[float, "Mean, or the estimate of a proportion."]
    low: Annotated[float | None, "Lower bound; null if there is a single value."]
    high: Annotated[float | None, "Upper bound; null if there is a single value."]


class Hardware(TypedDict):
    """The machine and the versions that affect timings."""

    cpu: Annotated[str, "Model name of the CPU."]
    cores: Annotated[int, "Number of usable CPU cores."]
    gpu: Annotated[str | None, "Model name of the GPU; null without a GPU."]
    python: Annotated[str, "Python version."]
    torch: Annotated[str, "PyTorch version."]
    platform: Annotated[str, "Operating system."]


class RunHardware(Hardware):
    """The machine that a run is trained on."""

    threads: Annotated[int, "Number of threads that PyTorch uses."]


class GitState(TypedDict):
    """State of the Git repository of the working directory."""

    commit: Annotated[str, "Hash of the current commit."]
    dirty: Annotated[bool, "Whether there are uncommitted changes."]


class RunInfo(TypedDict):
    """Provenance of a run. Written once, when the run starts."""

    schema: Annotated[int, "Schema number."]
    started: Annotated[str, "Start time, UTC, ISO 8601."]
    command: Annotated[str, "Command line of the process."]
    repeat: Annotated[str, "Command that repeats the run in a new folder."]
    working_folder: Annotated[str, "Working directory of the process."]
    versions: Annotated[dict[str, str | None], "Versions of saccade, Python and the main packages."]
    git: Annotated[GitState | None, "Git state of the working directory; null outside a repository."]
    hardware: Annotated[RunHardware, "The machine."]


class LocalizationScore(TypedDict):
    """Mean localization of maps under one polarity."""

    pointing: Annotated[float, "Pointing game: fraction of maps whose maximum is inside the target."]
    energy: Annotated[float, "Fraction of the map's sum that is inside the target."]
    precision: Annotated[float, "Average precision of the pixels."]


class MapLocalization(TypedDict):
    """Mean localization of maps: as they are (positive) and inverted (negative)."""

    chance: Annotated[float, "Expected score of a random map: mean fraction of the image in the target."]
    positive: Annotated[LocalizationScore, "Scores of the maps as they are."]
    negative: Annotated[LocalizationScore, "Scores of the inverted maps."]


class RunLocalization(MapLocalization):
    """Localization of a run's attention maps on the test images that have a target."""

    path: Annotated[str, "Path of the attention module in the model."]
    kind: Annotated[str, "Kind of the map, for example `spatial` or `pairwise`."]


class Ranking(TypedDict):
    """Deletion and insertion curves of one pixel order, averaged over the images."""

    deletion: Annotated[float, "Area under the deletion curve."]
    insertion: Annotated[float, "Area under the insertion curve."]
    deletion_curve: Annotated[list[float], "Probability of the predicted class as pixels are deleted."]
    insertion_curve: Annotated[list[float], "Probability of the predicted class as pixels are inserted."]


class MapRanking(Ranking):
    """Deletion and insertion curves in the order of a map."""

    auc_gain: Annotated[float, "Mean area by which both curves improve on a random order; 0 is chance."]


class LayerSanity(TypedDict):
    """Similarity of a map to the original after a layer, and all layers above it, are randomized."""

    path: Annotated[str, "Path of the layer."]
    reaches: Annotated[bool, "Whether the layer runs before the map is computed."]
    spearman: Annotated[float, "Absolute rank correlation with the original map."]
    ssim: Annotated[float, "Structural similarity to the original map."]


class MapSanity(TypedDict):
    """Sanity check: similarity of a map to the original under random weights."""

    spearman: Annotated[float, "Absolute rank correlation after all layers are randomized."]
    ssim: Annotated[float, "Structural similarity after all layers are randomized."]
    layers: Annotated[list[LayerSanity], "The cascade, from the output to the input."]


class RunMap(TypedDict):
    """Scores of one map of a run."""

    path: Annotated[str | None, "Path of the attention module; null for Grad-CAM."]
    kind: Annotated[str, "Kind of the map."]
    localization: Annotated[MapLocalization | None, "Localization on the scored images; null without masks."]
    positive: Annotated[MapRanking, "Faithfulness of the map as it is."]
    negative: Annotated[MapRanking, "Faithfulness of the inverted map."]
    sanity: Annotated[MapSanity, "The sanity check."]


class _RunMaps(TypedDict, total=False):
    attention: Annotated[RunMap, "The attention map; absent for `none`."]
    grad_cam: Annotated[RunMap, "Grad-CAM; absent if the model has no layer with positions."]


class RunScores(_RunMaps):
    """Output of `saccade score` for one run."""

    images: Annotated[int, "Number of scored test images."]
    steps: Annotated[int, "Steps of the deletion and insertion curves."]
    shares: Annotated[list[float], "Fraction of changed pixels at each point of the curves."]
    random: Annotated[Ranking, "Curves of a random pixel order."]
    center_prior: Annotated[Ranking, "Curves of the order from the center outwards."]


class SegmentationScore(TypedDict):
    """Metrics of a segmentation: means over the classes. All are fractions, and higher is better."""

    mean_iou: Annotated[float, "Mean intersection over union of the pixels of all test images."]
    dice: Annotated[float, "Mean Dice coefficient of the pixels of all test images."]
    boundary_f1: Annotated[float, "Mean F-score of the boundaries over classes and images."]


class _Segmentation(TypedDict, total=False):
    segmentation: Annotated[SegmentationScore, "Metrics of the test images; absent for classification."]


class Run(_Segmentation):
    """Measurements of one run."""

    attention: Annotated[str, "The attention, `NAME[:option=value,...][@PLACE]`."]
    seed: Annotated[int, "Seed of the run."]
    error: Annotated[float, "Test error, a fraction; for segmentation, one minus the mean IoU."]
    loss: Annotated[float, "Mean test loss (cross-entropy; for segmentation, with the Dice loss)."]
    localization: Annotated[RunLocalization | None, "Localization; null without attention or masks."]
    parameters: Annotated[int, "Number of parameters of the model."]
    flops: Annotated[int, "FLOPs of one forward pass of one image."]
    latency_ms: Annotated[float, "Latency of one image in milliseconds."]
    train_seconds: Annotated[float, "Duration of training in seconds."]
    curves: Annotated[dict[str, list[float | None]], "Columns of metrics.csv; not-finite values are null."]
    scores: Annotated[RunScores | None, "Output of `saccade score`; null before it runs."]


class _TaskNotes(TypedDict, total=False):
    notes: Annotated[list[str], "How the splits were chosen, if not by the names of the folders."]
    segmentation: Annotated[bool, "Whether each pixel has a class; absent if each image has one."]


class TaskSummary(_TaskNotes):
    """The task that a run learns."""

    name: Annotated[str, "Name of the task."]
    classes: Annotated[list[str], "Class names."]
    train: Annotated[int, "Number of training images."]
    validation: Annotated[int, "Number of validation images."]
    test: Annotated[int, "Number of test images."]
    chance_error: Annotated[float, "Error of always predicting the most frequent class, in every pixel."]
    masks: Annotated[bool, "Whether the test images have target masks."]
    skipped: Annotated[list[str], "Images that could not be read."]


@final
class RunResult(Run):
    """Result of a run. The file is written last, so its presence means that the run is complete."""

    schema: Annotated[int, "Schema number."]
    task: Annotated[TaskSummary, "The task."]


class ComparisonRun(Run):
    """A run of a comparison."""

    folder: Annotated[str, "Folder of the run, relative to the comparison."]


class JoinedLocalization(TypedDict):
    """Localization over seeds, under the polarity with the higher mean average precision."""

    polarity: Annotated[Polarity, "`positive`: maps are high on the target; `negative`: low."]
    agree: Annotated[int, "Number of seeds whose own better polarity is this one."]
    chance: Annotated[float, "Expected score of a random map."]
    pointing: Annotated[Interval, "Pointing game."]
    energy: Annotated[Interval, "Fraction of the map's sum inside the target."]
    precision: Annotated[Interval, "Average precision of the pixels."]


class JoinedMap(TypedDict):
    """Scores of one kind of map over the scored runs, under one polarity."""

    runs: Annotated[int, "Number of scored runs."]
    polarity: Annotated[Polarity, "The polarity that localizes better; without masks, the more faithful one."]
    faithfulness: Annotated[Interval, "`auc_gain` of the map."]
    deletion: Annotated[Interval, "Area under the deletion curve."]
    insertion: Annotated[Interval, "Area under the insertion curve."]
    spearman: Annotated[Interval, "Sanity check: absolute rank correlation."]
    ssim: Annotated[Interval, "Sanity check: structural similarity."]
    precision: Annotated[Interval | None, "Average precision of the pixels; null without masks."]


class JoinedScores(TypedDict, total=False):
    """Scores of the attention and of Grad-CAM over the scored runs."""

    attention: Annotated[JoinedMap, "The attention map; absent for `none`."]
    grad_cam: Annotated[JoinedMap, "Grad-CAM; absent if the model has no layer with positions."]


class JoinedSegmentation(TypedDict):
    """Metrics of a segmentation over seeds."""

    mean_iou: Annotated[Interval, "Mean intersection over union."]
    dice: Annotated[Interval, "Mean Dice coefficient."]
    boundary_f1: Annotated[Interval, "Mean F-score of the boundaries."]


class _RowSegmentation(TypedDict, total=False):
    segmentation: Annotated[JoinedSegmentation, "Metrics of the test images; absent for classification."]


class Row(_RowSegmentation):
    """An attention of the leaderboard: means over seeds."""

    attention: Annotated[str, "The attention."]
    seeds: Annotated[int, "Number of runs."]
    error: Annotated[Interval, "Test error, a fraction; for segmentation, one minus the mean IoU."]
    difference: Annotated[
        Interval | None, "Error minus that of `none`, paired by seed; null for `none` or without pairs."
    ]
    p_value: Annotated[float | None, "Two-sided paired t-test of the difference; null with one seed."]
    localization: Annotated[JoinedLocalization | None, "Localization; null without attention or masks."]
    scores: Annotated[JoinedScores | None, "Scores of the maps; null before `saccade score` runs."]
    parameters: Annotated[int, "Number of parameters of the model."]
    flops: Annotated[int, "FLOPs of one forward pass of one image."]
    latency_ms: Annotated[float, "Median latency of one image in milliseconds."]
    train_seconds: Annotated[float, "Median duration of training in seconds."]


@final
class ComparisonResults(TypedDict):
    """Results of a comparison."""

    schema: Annotated[int, "Schema number."]
    saccade: Annotated[str, "Version of saccade."]
    command: Annotated[str, "Command line of the process."]
    recipe: Annotated[dict[str, Any], "The recipe of the comparison."]
    hardware: Annotated[Hardware, "The machine."]
    task: Annotated[TaskSummary, "The task."]
    leaderboard: Annotated[list[Row], "One row per attention."]
    runs: Annotated[list[ComparisonRun], "All runs."]
