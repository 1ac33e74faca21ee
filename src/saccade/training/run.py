"""One run: train a recipe in a folder of its own, test it, and look where it looks."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from saccade.config import Plan, Recipe, read_yaml, resolve
from saccade.data import Task, TaskInfo, load
from saccade.errors import BadRecipe, BadRun
from saccade.profiling import cost
from saccade.results import (
    RUN_INFO,
    RUN_RESULT,
    SCHEMA,
    RunResult,
    lock_folder,
    read_run_result,
    run_info,
    write_gallery,
    write_run_info,
    write_run_result,
)
from saccade.training.callbacks.history import History, Progress
from saccade.training.callbacks.preemption import Preempted, Preemption, reraise_signal
from saccade.training.checkpoint import CHECKPOINT, load_checkpoint
from saccade.training.evaluate import build_gallery, evaluate, localize
from saccade.training.hardware import ONE_DEVICE, Hardware
from saccade.training.initial_weights import check_initial_weights, freeze, load_initial_weights
from saccade.training.loader import Batches, free_bytes, loader, move_to_device_if_fits
from saccade.training.loggers import LoggerName, check_logger, logging_to
from saccade.training.module import Classifier, check_optimizer
from saccade.training.network import attention_path, is_own
from saccade.training.objectives.select import create_objective


def prepare(recipe: Recipe) -> Plan:
    """Resolve a recipe, and raise for anything that would stop its run later. Writes nothing.

    Checks names, options and data, and runs the model on the meta device, where nothing is computed. A
    backbone with attention that does not start as the identity is also built with values, because only
    they tell whether the attention can train.

    Returns:
        The plan, which `train` takes. Its data are loaded and stay in the cache of `saccade.data.load`.
    """
    plan = resolve(recipe)
    check_optimizer(recipe.optimizer)
    if recipe.precision == "16-mixed" and not torch.cuda.is_available():
        message = "precision='16-mixed' needs a GPU; on a CPU there is 'bf16-mixed'"
        raise BadRecipe(message, option="precision", value=recipe.precision)
    task = load(plan.task)
    with torch.device("meta"):
        classifier = _untrained(plan, task)
    count = len(classifier.training_subset(task.train))
    if recipe.batch_size > count:
        message = f"batch_size={recipe.batch_size} is larger than the {count} training images"
        raise BadRecipe(message, option="batch_size", value=recipe.batch_size)
    check_initial_weights(classifier)
    try:
        classifier.eval()(torch.empty(2, *task.shape, device="meta"))
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        message = f"backbone={recipe.backbone!r} takes no input of {task.shape}: {reason}"
        raise BadRecipe(message, option="backbone", value=recipe.backbone) from error
    if plan.attention and not recipe.identity and not is_own(plan.backbone):
        with torch.random.fork_rng(devices=[]):
            _untrained(plan, task)
    return plan


def _untrained(plan: Plan, task: Task) -> Classifier:
    return create_objective(plan, TaskInfo(task.classes, task.shape, torch.zeros(3), torch.ones(3)))


def train(
    recipe: Recipe | Plan,
    folder: Path,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
    hardware: Hardware = ONE_DEVICE,
    logger: LoggerName = "auto",
    group: str | None = None,
) -> RunResult:
    """Train, test and record a recipe in `folder`; return what is written to its result.json.

    With `resume`, a run that was interrupted goes on after its last checkpoint, and a run that is complete is
    returned as it stands. There is a checkpoint of every epoch and, of a run that was asked to stop (SIGTERM,
    Ctrl-C), of the step at which it did; a run that was killed goes on after its last whole epoch.

    A resumed run ends with the very weights of an uninterrupted one, bit for bit, on CPUs of the same kind
    with the same number of threads and the same versions (run.json has them). On GPUs, on several devices, or
    with `compile` it sees the same batches with the same draws, and rounding may differ.

    A plan that `prepare` returned is trained as it is; a recipe is prepared first.

    On several devices, only the first process writes and returns; the others end with `SystemExit(0)`.

    logger      gets the curves besides metrics.csv, which is always written: "tensorboard", "wandb" or
                "mlflow"; "none" or "csv": nothing does; "auto": TensorBoard's files, where a package is
                installed that writes them
    group       of which the run is part, for W&B and MLflow

    Raises `BadRun` if the folder holds another recipe's run, or any run without `resume`, or if another
    process writes there; `BadRecipe` for a batch that the devices cannot share equally; `BadOption` for a
    logger that is not installed.
    """
    plan = recipe if isinstance(recipe, Plan) else None
    recipe = recipe.recipe if isinstance(recipe, Plan) else recipe
    hardware.check(recipe.batch_size)
    check_logger(logger)
    is_first = getattr(rank_zero_only, "rank", 0) == 0
    with lock_folder(folder) if is_first else nullcontext():
        if is_first and (folder / "recipe.yaml").exists():
            theirs = Recipe.from_mapping(read_yaml(folder / "recipe.yaml"))
            if theirs != recipe:
                raise BadRun(f"{str(folder)!r} belongs to another recipe: {difference(theirs, recipe)}")
            if not resume:
                raise BadRun(f"{str(folder)!r} holds a run already; resume it, or choose another folder")
        if is_first and (folder / RUN_RESULT).exists():
            return read_run_result(folder)
        plan = plan or prepare(recipe)
        task = load(plan.task)
        with logging_to(logger, folder, group) as curves, torch.random.fork_rng(devices=[]):
            if is_first:
                recipe.write(folder / "recipe.yaml")
                if not (folder / RUN_INFO).exists():
                    write_run_info(folder, run_info(folder, hardware))
            torch.manual_seed(recipe.seed)
            classifier = create_objective(plan, task.info())
            if not (folder / CHECKPOINT).exists():
                load_initial_weights(classifier)
            freeze(classifier)
            history = _fit(classifier, task, folder, report, hardware, curves)
        if getattr(rank_zero_only, "rank", 0) != 0:
            raise SystemExit(0)
        result = _result(classifier.eval(), task, folder, history)
        write_run_result(folder, result)
    return result


def difference(theirs: Recipe, ours: Recipe) -> str:
    """Name what two recipes differ in."""
    pairs = zip(asdict(theirs).items(), asdict(ours).values(), strict=True)
    return ", ".join(f"{key} {its!r}, not {our!r}" for (key, its), our in pairs if its != our)


def _fit(
    classifier: Classifier,
    task: Task,
    folder: Path,
    report: Callable[[Progress], None] | None,
    hardware: Hardware,
    logger: Logger | None,
) -> History:
    recipe = classifier.recipe
    shown, validation = classifier.training_subset(task.train), task.validation
    history = History(folder / "metrics.csv", report)
    callbacks: list[lightning.Callback] = [history]
    if recipe.early_stopping_patience is not None:
        best = ModelCheckpoint(
            folder / "checkpoints", "best", monitor="val_error", enable_version_counter=False
        )
        callbacks += [EarlyStopping("val_error", patience=recipe.early_stopping_patience), best]
    last = ModelCheckpoint(
        folder / "checkpoints", "last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    callbacks.append(last)  # after the best one, so that it knows which that is
    if recipe.ema_decay:
        callbacks.append(EMAWeightAveraging(decay=recipe.ema_decay))
    checkpoint = folder / CHECKPOINT
    resumed = checkpoint.exists() and bool(load_checkpoint(checkpoint))
    batches = Batches(len(shown), recipe.batch_size, recipe.seed)
    preemption = Preemption(checkpoint, batches, history)
    with _quiet():
        trainer = lightning.Trainer(
            max_epochs=recipe.epochs,
            **hardware.options(),
            precision=recipe.precision,
            gradient_clip_val=recipe.grad_clip,
            accumulate_grad_batches=recipe.grad_accum_steps,
            callbacks=[*callbacks, preemption],
            logger=logger or False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        batches.rank, batches.world = trainer.global_rank, trainer.world_size
        device = trainer.strategy.root_device
        shown, validation = move_to_device_if_fits([shown, validation], device, free_bytes(device))
        try:
            trainer.fit(
                classifier,
                loader(shown, batches, device),
                loader(validation, Batches(len(validation), 100), device),
                ckpt_path=checkpoint if resumed else None,
                weights_only=True,
            )
        except Preempted:
            pass
        except OSError as error:  # the data lie in memory, so only a checkpoint can have failed
            raise BadRun(f"{str(folder)!r} cannot be written: {error.strerror or error}") from error
        except SystemExit as stop:
            if stop.code == 1:  # Lightning's answer to Ctrl-C
                raise KeyboardInterrupt from stop
            raise
    if preemption.asked is not None:
        reraise_signal(preemption.asked)
    if recipe.early_stopping_patience is not None:
        classifier.load_state_dict(load_checkpoint(folder / "checkpoints" / "best.ckpt")["state_dict"])
    return history


def _result(classifier: Classifier, task: Task, folder: Path, history: History) -> RunResult:
    recipe = classifier.recipe
    error, loss = evaluate(classifier, task.test)
    write_gallery(folder, build_gallery(classifier, task.test))
    example = task.test.images[:1].to(classifier.device)
    measured = cost(classifier, example)
    return {
        "schema": SCHEMA,
        "attention": recipe.attention,
        "seed": recipe.seed,
        "error": error,
        "loss": loss,
        "localization": localize(classifier, task.test)
        if attention_path(classifier.model) is not None
        else None,
        "parameters": measured.parameters,
        "flops": measured.flops,
        "latency_ms": measured.latency_ms,
        "train_seconds": history.seconds,
        "curves": history.curves(),
        "scores": None,
        "task": {
            "name": task.name,
            "classes": list(task.classes),
            "train": len(task.train),
            "validation": len(task.validation),
            "test": len(task.test),
            "chance_error": task.chance_error(),
            "masks": task.test.masks is not None,
            "skipped": list(task.skipped),
        },
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back Lightning's remarks: a run reports through its history."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
