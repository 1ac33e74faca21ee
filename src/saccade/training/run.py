"""One run: train a plan in its own folder, test the model, and record the results."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import Logger

from saccade.config import Plan, Recipe, resolve
from saccade.data import Task, TaskInfo, load
from saccade.errors import SaccadeError, bad_recipe, bad_run
from saccade.profiling import cost
from saccade.results import (
    RUN_INFO,
    RUN_RESULT,
    SCHEMA,
    RunResult,
    check_unused,
    lock_folder,
    read_run_result,
    run_info,
    sign,
    write_gallery,
    write_run_info,
    write_run_result,
)
from saccade.training.callbacks.history import History, Progress
from saccade.training.callbacks.preemption import Preempted, Preemption, is_first_process, reraise_signal
from saccade.training.checkpoint import BEST, CHECKPOINT, RECIPE, AtomicCheckpoints, load_checkpoint
from saccade.training.evaluate import build_gallery, localize
from saccade.training.hardware import ONE_DEVICE, Hardware
from saccade.training.initial_weights import check_initial_weights, freeze, load_initial_weights
from saccade.training.loader import Batches, free_bytes, make_loader, move_to_device_if_fits
from saccade.training.loggers import TRACES, LoggerName, check_logger, logging_to
from saccade.training.measurement import measure
from saccade.training.module import Classifier, check_optimizer
from saccade.training.network import is_built_in
from saccade.training.objectives.registry import create_objective


def prepare(recipe: Recipe) -> Plan:
    """Resolve a recipe, and check everything that could stop its run later. Writes nothing.

    Checks names, options, initial weights and data, and runs the model on the meta device, where nothing is
    computed. A backbone with attention that does not start as the identity is also built with values, because
    only they show whether the attention can train.

    Args:
        recipe: The recipe.

    Returns:
        The plan, for `train`. Its data are loaded, and stay in the cache of `saccade.data.load`.

    Raises:
        SaccadeError: The run would fail.
    """
    plan = resolve(recipe)
    check_optimizer(recipe.optimizer)
    if recipe.precision == "16-mixed" and not torch.cuda.is_available():
        raise bad_recipe("needs a GPU; use 'bf16-mixed' on a CPU", precision=recipe.precision)
    task = load(plan.task)
    with torch.device("meta"):
        classifier = _untrained(plan, task)
    count = len(classifier.training_subset(task.train))
    if recipe.batch_size > count:
        raise bad_recipe(f"is larger than the {count} training images", batch_size=recipe.batch_size)
    check_initial_weights(classifier)
    try:
        output = classifier.eval()(torch.empty(2, *task.shape, device="meta"))
    except SaccadeError:
        raise
    except Exception as error:  # models check their inputs in different ways
        reason = str(error).partition("\n")[0]
        problem = f"does not accept inputs of shape {task.shape}: {reason}"
        raise bad_recipe(problem, backbone=recipe.backbone) from error
    expected = (2, len(task.classes), *(task.shape[1:] if task.segmentation else ()))
    if output.shape != expected:
        problem = f"returns an output of shape {tuple(output.shape)} for two images; expected {expected}"
        raise bad_recipe(problem, backbone=recipe.backbone)
    if plan.attention and not recipe.identity and not is_built_in(plan.backbone):
        with torch.random.fork_rng(devices=[]):
            _untrained(plan, task)
    return plan


def _untrained(plan: Plan, task: Task) -> Classifier:
    facts = task.classes, task.shape, torch.zeros(3), torch.ones(3), task.segmentation
    return create_objective(plan, TaskInfo(*facts))


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
    """Train a recipe in a folder, test the model, and record the results.

    A checkpoint is saved after every epoch. On SIGTERM or Ctrl-C, a checkpoint of the current step is saved;
    after a hard kill, the run resumes from the last completed epoch.

    A resumed run ends with the same weights as an uninterrupted one, bit for bit, on CPUs of the same kind,
    with the same number of threads and the same versions (see run.json). On GPUs, on several devices, or with
    `compile`, it sees the same batches and draws, but rounding may differ.
    On several devices only the first process returns. The others exit with `SystemExit(0)`.

    Args:
        recipe: A plan from `prepare`, which is trained without checks, or a recipe, which is prepared first.
        folder: Folder of the run.
        resume: Whether to resume an interrupted run. A completed run is not repeated.
        report: Called with the progress.
        hardware: Devices to train on.
        logger: Where curves go beside metrics.csv: "tensorboard", "wandb", "mlflow"; "none", "csv": nowhere
            else; "auto": TensorBoard if it is installed.
        group: Name of the comparison that the run belongs to, for W&B and MLflow.

    Returns:
        The content of result.json.

    Raises:
        BadRun: The folder holds the run of another recipe, or any run without `resume`; another process uses
            it; or it cannot be written.
        BadRecipe: The devices cannot share a batch equally, or a check of `prepare` fails.
        BadOption: The logger is not installed.
    """
    plan, recipe = (recipe, recipe.recipe) if isinstance(recipe, Plan) else (None, recipe)
    hardware.check(recipe.batch_size)
    check_logger(logger)
    is_first = is_first_process()
    with lock_folder(folder) if is_first else nullcontext():
        if is_first:
            _check_folder(folder, recipe, resume)
            if (folder / RUN_RESULT).exists():
                return read_run_result(folder)
        plan = plan or prepare(recipe)
        task = load(plan.task)
        with logging_to(logger, folder, group) as curves, torch.random.fork_rng(devices=[]):
            if is_first:
                recipe.write(folder / RECIPE)
                if not (folder / RUN_INFO).exists():
                    write_run_info(folder, run_info(folder, hardware))
            torch.manual_seed(recipe.seed)
            classifier = create_objective(plan, task.info())
            classifier.hparams["signature"] = sign(recipe.task)  # in the checkpoints, see `stored_task`
            if not (folder / CHECKPOINT).exists():
                load_initial_weights(classifier)
            freeze(classifier)
            history = _fit(classifier, task, folder, report, hardware, curves)
        if not is_first_process():
            raise SystemExit(0)
        result = _result(classifier.eval(), task, folder, history)
        write_run_result(folder, result)
    return result


def _check_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Raise `BadRun` unless a folder is new, or holds a run of this recipe that is to be resumed."""
    if not (folder / RECIPE).exists():
        check_unused(folder, TRACES)
        return
    old, new = asdict(Recipe.read(folder / RECIPE)), asdict(recipe)
    if old != new:
        changes = ", ".join(f"{key} {old[key]!r}, not {new[key]!r}" for key in new if old[key] != new[key])
        raise bad_run(folder, f"belongs to another recipe: {changes}", "recipe")
    if not resume:
        raise bad_run(folder, "already holds a run; resume it, or choose another folder", "resume", False)


def _fit(
    classifier: Classifier,
    task: Task,
    folder: Path,
    report: Callable[[Progress], None] | None,
    hardware: Hardware,
    logger: Logger | None,
) -> History:
    """Train a model with Lightning, from its checkpoint if there is one."""
    recipe = classifier.recipe
    training, validation = classifier.training_subset(task.train), task.validation
    history = History(folder / "metrics.csv", report)
    callbacks: list[lightning.Callback] = [history]
    checkpoint = folder / CHECKPOINT
    save = partial(ModelCheckpoint, checkpoint.parent, enable_version_counter=False)
    if (patience := recipe.early_stopping_patience) is not None:
        callbacks += [EarlyStopping("val_error", patience=patience), save("best", monitor="val_error")]
    callbacks += [save("last", save_on_train_epoch_end=True)]  # after the best one: it contains its state
    if recipe.ema_decay:
        callbacks += [EMAWeightAveraging(decay=recipe.ema_decay)]
    resumed = checkpoint.exists() and bool(load_checkpoint(checkpoint))
    batches = Batches(len(training), recipe.batch_size, recipe.seed)
    preemption = Preemption(checkpoint, batches, history)
    with _quiet():
        trainer = lightning.Trainer(
            max_epochs=recipe.epochs,
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy=hardware.strategy,
            use_distributed_sampler=False,
            sync_batchnorm=torch.cuda.is_available() and hardware.world > 1,
            precision=recipe.precision,
            gradient_clip_val=recipe.grad_clip,
            accumulate_grad_batches=recipe.grad_accum_steps,
            callbacks=[*callbacks, preemption],
            plugins=[AtomicCheckpoints()],
            logger=logger or False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        batches.rank, batches.world = trainer.global_rank, trainer.world_size
        device = trainer.strategy.root_device
        training, validation = move_to_device_if_fits([training, validation], device, free_bytes(device))
        try:
            trainer.fit(
                classifier,
                make_loader(training, batches, device),
                make_loader(validation, Batches(len(validation), 100), device),
                ckpt_path=checkpoint if resumed else None,
                weights_only=True,
            )
        except Preempted:
            pass
        except OSError as error:  # the data are in memory, so only a folder or metrics.csv can have failed
            raise bad_run(folder, f"cannot be written: {error.strerror or error}") from error
        except SystemExit as error:
            if error.code == 1:  # how Lightning reacts to Ctrl-C
                raise KeyboardInterrupt from error
            raise
    if preemption.signal is not None:
        reraise_signal(preemption.signal)
    if recipe.early_stopping_patience is not None:
        classifier.load_state_dict(load_checkpoint(folder / BEST)["state_dict"])
    return history


def _result(classifier: Classifier, task: Task, folder: Path, history: History) -> RunResult:
    """Test a trained model; return the content of result.json."""
    recipe = classifier.recipe
    measured = measure(classifier, task.test)
    write_gallery(folder, build_gallery(classifier, task.test))
    costs = cost(classifier, task.test.images[:1].to(classifier.device))
    result: RunResult = {
        "schema": SCHEMA,
        "attention": recipe.attention,
        "seed": recipe.seed,
        "error": measured.error,
        "loss": measured.loss,
        "localization": localize(classifier, task.test),
        "parameters": costs.parameters,
        "flops": costs.flops,
        "latency_ms": costs.latency_ms,
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
            "notes": list(task.notes),
        },
    }
    if measured.segmentation is not None:
        result["segmentation"] = measured.segmentation
        result["task"]["segmentation"] = True
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning: a run reports through its history."""
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
