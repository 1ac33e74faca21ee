"""Clumsy and hostile inputs, as data: what a user or a stranger gives, and how it must end.

A line is what follows `saccade`. Words in braces are prepared by tests/hostile: a folder, a file, a name.
`Case("...")` must be refused with one sentence and exit code 2; `fine=True` must work.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from saccade.grammar import split_options

SMALL = "white-patch:size=16,patch=[4,6],train=16,validation=8,test=8"
QUICK = "--epochs 1 --batch-size 8"


@dataclass(frozen=True)
class Case:
    """A command line and its end.

    Attributes:
        line: Arguments after `saccade`, as typed in a shell.
        names: Text that the sentence must contain, such as the offending value.
        fine: Whether the command must succeed.
        environment: Environment variables.
    """

    line: str
    names: str = ""
    fine: bool = False
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(shlex.split(self.line))


#: Options of tasks with values of the wrong type or out of range.
_TASK_VALUES = {
    "white-patch": {
        "size": ("x", "0", "-1", "1.5", "[]", "1000000", "99999999999", "none", "true"),
        "train": ("x", "0", "-3", "1e9", "[1]"),
        "validation": ("x", "0"),
        "test": ("x", "-1"),
        "patch": ("5", "x", "[]", "[1]", "[6,4]", "[0,4]", "[4,99]", "[a,b]", "[1,2,3]", "{}"),
        "contrast": ("x", "nan", "-1", "[]", "1e999"),
        "level": ("a", "nan", "-2"),
        "seed": ("-1", "x", "1.5", "9223372036854775808", "1e400"),
        "source": ("5", "[]", "''"),
    },
    "digits": {
        "size": ("x", "0", "1000000"),
        "variant": ("5", "twisted"),
        "angle": ("x", "nan"),
        "max_samples": ("0", "x", "-4"),
        "seed": ("-1", "x"),
    },
    "moving-digits": {
        "size": ("x", "0", "1000000"),
        "classes": ("5", "[]", "[0]", "[11,12]", "x"),
        "seed": ("-1",),
    },
    "folder:{photos}": {
        "size": ("x", "0", "-1", "1000000", "[]"),
        "val_fraction": ("x", "0", "1", "2", "nan", "-0.1"),
        "held_out": ("a", "0.2"),
        "masks": ("5", "''"),
        "on_bad_image": ("5", "ignore"),
        "max_samples": ("0", "x"),
        "seed": ("-1", "x", "9223372036854775808"),
        "cache": ("5", "[]", "{file}", "{long_name}"),
        "workers": ("0", "x", "-1", "1.5"),
    },
    "python:torchvision.datasets.FakeData": {
        "size": ("x", "0", "1000000"),
        "max_samples": ("0",),
        "no_such": ("1",),
    },
}


def task_options() -> Iterator[Case]:
    """A wrong option of each task."""
    for task, options in _TASK_VALUES.items():
        for option, values in options.items():
            for value in values:
                name, _, small = SMALL.partition(":") if task == "white-patch" else (task, "", "")
                kept = [part for part in split_options(small) if part and not part.startswith(f"{option}=")]
                separator = ":" if ":" not in name else ","
                text = f"{name}{separator}{','.join([*kept, f'{option}={value}'])}"
                yield Case(f"train {shlex.quote(text)} {QUICK}", option)


_ATTENTIONS = (
    "se:bias=maybe",
    "se:bias=2",
    "se:reduction=0",
    "se:reduction=-4",
    "se:reduction=1.5",
    "se:reduction={[]:1}",
    "se:reduction=1000000",
    "se:channels=5",
    "se:reduction",
    "se:=4",
    "se:reduction=",
    "se:reduction=4,reduction=8",
    "se:reductoin=4",
    "se@nowhere",
    "se@",
    "se@4",
    "se@1++2",
    "cbam:spatial=5",
    "cbam:pools=5",
    "cbam:pools=avg",
    "cbam:pools=[]",
    "cbam:pools=[avg,avg]",
    "cbam:pools=[median]",
    "cbam:kernel_size=1001",
    "cbam:kernel_size=4",
    "cbam:kernel_size=-7",
    "cbam:kernel_size=1000000000",
    "eca:kernel_size=2",
    "eca:kernel_size=99999999999999999999",
    "eca:kernel_size=[]",
    "multi_head:heads=0",
    "multi_head:heads=7",
    "multi_head:heads=true",
    "multi_head:norm=5",
    "multi_head:projection=conv3d",
    "multi_head:kernel_size=1000000001",
    "multi_head:tokens=-1",
    "multi_head:position=5",
    "non_local:dims=3",
    "non_local:dims=4",
    "non_local:dims=x",
    "non_local:pairwise=cosine",
    "sk:branches=1000000000",
    "bam:dilation=0",
    "bam:dilated_convs=1000000000",
    "residual_mask:p=1000000",
    "residual_mask:depth=9",
    "spatial_transformer:size=0",
    "spatial_transformer:size=[1,2,3]",
    "spatial_transformer:size=100000",
    "hard_item:temperature=nan",
    "hard_item:temperature=-1",
    "glimpse:scales=0",
    "fixation:std=inf",
    "cbma",
    "",
    " ",
    ":",
    "@",
    "se:" + "[" * 500,
    "se:reduction=" + "(" * 2000 + ")" * 2000,
    "se:reduction=" + "9" * 5000,
    "none:reduction=4",
    "se\x1b[31m",
    "s\u00e9",
    "../se",
    "__init__",
    "se:reduction='''",
    "se:reduction=__import__('os').system('touch CANARY')",
    "se:bias=lambda: 0",
)

_COMMANDS = (
    ("train --epochs 0", "epochs"),
    ("train --epochs -1", "epochs"),
    ("train --epochs x", "epochs"),
    ("train --epochs 1.5", "epochs"),
    ("train --batch-size 0", "batch_size"),
    ("train --batch-size 100000", "batch_size"),
    ("train --learning-rate nan", "learning_rate"),
    ("train --learning-rate inf", "learning_rate"),
    ("train --learning-rate -1", "learning_rate"),
    ("train --seed -1", "seed"),
    ("train --seed 9223372036854775808", "seed"),
    ("train --seed 99999999999999999999999", "seed"),
    ("train --stage 4", "stage"),
    ("train --stage 0", "stage"),
    ("train --precision fp8", "precision"),
    ("train --precision 16-mixed", "precision"),
    ("train --strategy ddp_spawn", "strategy"),
    ("train --strategy deepspeed", "strategy"),
    ("train --strategy fsdp", "strategy"),
    ("train --strategy ''", "strategy"),
    ("train --devices 0", "devices"),
    ("train --devices -1", "devices"),
    ("train --devices 1000000", "devices"),
    ("train --nodes 0", "nodes"),
    ("train --set optimizer=adamax2", "optimizer"),
    ("train --set optimizer=lbfgs", "optimizer"),
    ("train --set optimizer=adahessian", "optimizer"),
    ("train --set optimizer=bnbadam", "optimizer"),
    ("train --set optimizer=5", "optimizer"),
    ("train --set optimizer=fusedadam", "optimizer"),
    ("train --set schedule=sometimes", "schedule"),
    ("train --set augment=yes", "augment"),
    ("train --set learning_rate=abc", "learning_rate"),
    ("train --set learning_rate=[1]", "learning_rate"),
    ("train --set learning_rate=", "learning_rate"),
    ("train --set =5", ""),
    ("train --set seed", ""),
    ("train --set nonsense=5", "nonsense"),
    ("train --set epochs=0x", "epochs"),
    ("train --set 'epochs=[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]'", "epochs"),
    ("train --set mixup=-1", "mixup"),
    ("train --set mixup=nan", "mixup"),
    ("train --set label_smoothing=1", "label_smoothing"),
    ("train --set ema_decay=1.0", "ema_decay"),
    ("train --set grad_clip=x", "grad_clip"),
    ("train --set grad_accum_steps=0", "grad_accum_steps"),
    ("train --set label_fraction=0", "label_fraction"),
    ("train --set label_fraction=2", "label_fraction"),
    ("train --set identity=maybe", "identity"),
    ("train --set freeze=5", "freeze"),
    ("train --set freeze=[1]", "freeze"),
    ("train --set init_from=nowhere", "nowhere"),
    ("train --set init_from=5", "init_from"),
    ("train --set init_from=/dev/zero", "/dev/zero"),
    ("train --set init_from={fifo}", "fifo"),
    ("train --set backbone=resnet1O", "resnet1O"),
    ("train --set backbone=5", "backbone"),
    ("train --set backbone=vit_tiny_patch16_224", "backbone"),
    ("train --set backbone=timm:vit_tiny_patch16_224", "backbone"),
    ("train --set backbone=timm:", "backbone"),
    ("train --set backbone=vit:patch=5", "patch"),
    ("train --set backbone=vit:patch=x", "patch"),
    ("train --set backbone=vit:depth=1000000000", "depth"),
    ("train --set backbone=vit:dim=-4", "dim"),
    ("train --set backbone=vit:heads=x", "heads"),
    ("train --set backbone=ram:glimpses=0", "glimpses"),
    ("train --set backbone=torchvision:r3d_18", "backbone"),
    ("train --set backbone=timm:resnet18:channels=5", "channels"),
    ("train --set backbone=timm:resnet18:nonsense=5", "nonsense"),
    ("train --set objective=hope", "hope"),
    ("train --set objective=contrastive:temperature=0", "temperature"),
    ("train --set objective=contrastive:temperature=x", "temperature"),
    ("train --early-stopping-patience 0", "early_stopping_patience"),
    ("train --logger nothing", "logger"),
    ("train --logger wandb", ""),
    ("train --image-size 0", "size"),
    ("train --image-size 1000000", "size"),
    ("train --image-size x", "image-size"),
    ("train --max-samples 3", "max_samples"),
    ("train --recipe nowhere", "nowhere"),
    ("train --recipe nowhere.yaml", "nowhere.yaml"),
    ("train --recipe {fifo}", "fifo"),
    ("train --recipe /dev/zero", "/dev/zero"),
    ("train --recipe {photos}", "photos"),
    ("train --recipe {binary}", "binary"),
    ("train --nonsense", "nonsense"),
    ("train a b", ""),
    ("train zebra", "zebra"),
    ("train ''", ""),
    ("train white-patch:", ""),
    ("compare --seeds 0", "seeds"),
    ("compare --seeds x", "seeds"),
    ("compare --seeds 1000000000", "seeds"),
    ("compare -a se -a se", "se"),
    ("compare -a none -a none", "none"),
    ("compare --jobs 0 --executor processes", "jobs"),
    ("compare --jobs 4", "jobs"),
    ("compare --jobs -1 --executor processes", "jobs"),
    ("compare --executor cluster", "executor"),
    ("compare --shared", "shared"),
    ("compare --address 127.0.0.1:1", "address"),
    ("compare --address x --executor processes", "address"),
    ("compare --cpus-per-run 2", "cpus"),
    ("compare --gpus-per-run -1", "gpus"),
    ("compare --cpus-per-run nan --executor ray", "cpus"),
    ("compare --gpus-per-run -1 --executor ray", "gpus"),
    ("compare --gpus-per-run inf --executor ray", "gpus"),
    ("compare --cpus-per-run 0 --executor ray", "cpus"),
    ("compare --recipe ram-mnist", ""),
    ("compare --set attentions=5", "attentions"),
    ("compare --set attentions=[]", "attentions"),
    ("compare --set attentions=[5]", "attentions"),
    ("compare --set seed=4", "seed"),
    ("list --domain color", "color"),
    ("list --contains", ""),
    ("show", ""),
    ("show cbma", "cbma"),
    ("show se --channels 0", "channels"),
    ("show se --channels x", "channels"),
    ("show se --channels -5", "channels"),
    ("show se --channels 99999999999", "channels"),
    ("show multi_head --channels 1000000000", "channels"),
    ("show ../se", "../se"),
    ("sites", ""),
    ("sites zebra", "zebra"),
    ("sites lstm", "lstm"),
    ("sites resnet18 -a cbma", "cbma"),
    ("sites resnet18 -a se --where nowhere", "nowhere"),
    ("sites resnet18 --image-size 0", ""),
    ("report nowhere", "nowhere"),
    ("report {file}", "file"),
    ("report {photos}", "photos"),
    ("report {fifo}", "fifo"),
    ("report ''", ""),
    ("score nowhere", "nowhere"),
    ("score {file}", "file"),
    ("score {run} --images 0", "images"),
    ("score {run} --images x", "images"),
    ("score {run} --steps 0", "steps"),
    ("score {run} --steps 1000000", "steps"),
    ("evaluate nowhere", "nowhere"),
    ("evaluate {file}", "file"),
    ("evaluate {photos}", "photos"),
    ("evaluate {fifo}", "fifo"),
    ("evaluate /dev/null", "/dev/null"),
    ("evaluate {run} zebra", "zebra"),
    ("evaluate {run} digits", "classes"),
    ("evaluate {run} folder:nowhere", "nowhere"),
    ("look nowhere/run", "nowhere"),
    ("look zebra", "zebra"),
    ("look resnet18", "IMAGE"),
    ("look resnet18 nowhere.png", "nowhere.png"),
    ("look resnet18 {fifo}", "fifo"),
    ("look resnet18 {folder_of_fifos}", ""),
    ("look resnet18 /dev/zero", "/dev/zero"),
    ("look resnet18 /dev/null", "/dev/null"),
    ("look resnet18 {binary}", "binary"),
    ("look resnet18 {empty}", "empty"),
    ("look resnet18 {image} --out {file}", "file"),
    ("look resnet18 {image} --out /", "/"),
    ("look resnet18 {image} --out /dev/null", "/dev/null"),
    ("look resnet18 {image} --cmap rainbow", "cmap"),
    ("look resnet18 {image} --alpha 2", "alpha"),
    ("look resnet18 {image} --alpha nan", "alpha"),
    ("look resnet18 {image} --layer nowhere", "nowhere"),
    ("look r3d_18 {image}", "r3d_18"),
    ("look {run} {binary}", "binary"),
    ("look {run} --layer nowhere", "nowhere"),
    ("look {run} --images 0", "images"),
    ("look {run} --pretrained", "pretrained"),
    ("look {run} --weights wheel", "weights"),
    ("look resnet18 {image} --weights {binary}", "binary"),
    ("look resnet18 {image} --weights {fifo}", "fifo"),
    ("look resnet18 {image} --weights /dev/zero", "/dev/zero"),
    ("look resnet18 {image} --weights wheel", "wheel"),
    ("look resnet18 {image} --weights ''", "pretrained"),
    ("export nowhere", "nowhere"),
    ("export {file}", "file"),
    ("export {fifo}", "fifo"),
    ("export {photos}", "photos"),
    ("export {binary}", "binary"),
    ("export {run} --to tflite", "tflite"),
    ("export {run} --dynamic depth", "depth"),
    ("export {run} --image-size 0", "image"),
    ("export {run} --image-size 1000000", "1000000"),
    ("export {run} --out /", "/"),
    ("export {run} --out /dev/null", "/dev/null"),
    ("export {run} --out {photos}", "photos"),
    ("demo --out /", "/"),
    ("demo --out /dev/null", "/dev/null"),
    ("demo --out {file}", "file"),
    ("doctor now", "now"),
    (f"search {SMALL} {QUICK} --budget soon", "soon"),
    (f"search {SMALL} {QUICK} --budget -2h", "-2h"),
    (f"search {SMALL} {QUICK} --budget nanh", "nanh"),
    (f"search {SMALL} {QUICK} --budget 1e999runs", "1e999runs"),
    (f"search {SMALL} {QUICK} --budget 40runs --finalists 0", "finalists"),
    (f"search {SMALL} {QUICK} --budget 40runs --seeds 0", "seeds"),
    (f"search {SMALL} {QUICK} --budget 40runs -a zebra", "zebra"),
    (f"search {SMALL} {QUICK} --budget 40runs -a se --where nowhere", "nowhere"),
    (f"search {SMALL} {QUICK} --budget 40runs -a se --max-flops much", "much"),
    (f"search {SMALL} {QUICK} --budget 40runs -a se --max-parameters +-1%", "+-1%"),
    (f"search {SMALL} {QUICK} --budget 40runs -a se --max-parameters 1", "parameters"),
    (f"search {SMALL} {QUICK} --budget 40runs --shared", "shared"),
    (f"search {SMALL} {QUICK} --budget 40runs --address 127.0.0.1:1", "address"),
    (f"search {SMALL} {QUICK} --budget 40runs --executor ray --gpus-per-run -1", "gpus"),
    (f"search {SMALL} {QUICK} --budget 40runs --executor tune", "tune"),
    (f"search {SMALL} {QUICK} --budget 40runs --out {{file}}", "file"),
    (f"search {SMALL} {QUICK} --budget 40runs --out /dev/null", "/dev/null"),
    ("look resnet18 {image} --weights {image} --pretrained", "weights"),
    ("look {empty}", "empty"),
    ("zebra", "zebra"),
    ("--zebra", "zebra"),
)

_OUTPUTS = (
    ("--out /", "/"),
    ("--out /dev/null", "/dev/null"),
    ("--out /dev/null/x", "/dev/null"),
    ("--out {file}", "file"),
    ("--out {file}/x", "file"),
    ("--out {fifo}", "fifo"),
    ("--out {foreign}", "foreign"),
    ("--out {long_name}", "long"),
    ("--out {deep_path}", ""),
    ("--out /proc/x", "/proc"),
    ("--out ''", "out"),
)

_TASKS = (
    ("folder:nowhere", "nowhere"),
    ("folder:{photos},masks=nowhere", "nowhere"),
    ("white-patch:source=nowhere", "nowhere"),
    ("white-patch:train=99999999999", "99999999999"),
    ("white-patch:test=99999999999", "GB"),
    ("python:torchvision.datasets.FakeData,image_size=x", "FakeData"),
    ("folder:", ""),
    ("folder:{file}", "file"),
    ("folder:{empty}", "empty"),
    ("folder:{fifo}", "fifo"),
    ("folder:/dev", ""),
    ("folder:{one_class}", "one_class"),
    ("folder:{folder_of_fifos}", "fifo"),
    ("folder:{folder_of_fifos},on_bad_image=skip", "image"),
    ("folder:{folder_of_links}", ""),
    ("folder:{no_permission}", "permission"),
    ("folder:{part_names}", "val"),
    ("python:subprocess.Popen,args=[touch,CANARY]", "Popen"),
    ("python:os.system,command='touch CANARY'", "os.system"),
    ("python:os.mkdir,path=CANARY", "os.mkdir"),
    ("python:pathlib.Path", "Path"),
    ("python:builtins.exec,source=1", "exec"),
    ("python:builtins.open,file=CANARY,mode=w", "open"),
    ("python:nowhere.Nothing", "nowhere"),
    ("python:torchvision.datasets.Nothing", "Nothing"),
    ("python:torch.nn.Linear,in_features=3,out_features=4", "Linear"),
    ("python:", ""),
    ("python:..x", ""),
    ("python:collections.OrderedDict", "OrderedDict"),
    ("huggingface:nowhere/nothing", "huggingface"),
    ("huggingface:", ""),
    ("cifar10:download=false,root=nowhere", "nowhere"),
    ("cifar10:download=maybe", "download"),
    ("mnist:root={file},download=false", ""),
)

_RECIPES = {
    "null": "null",
    "list": "[1, 2]",
    "text": "hello",
    "number": "5",
    "duplicate": "epochs: 1\nepochs: 2",
    "alias": "a: &a [1]\nb: *a",
    "bomb": "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
    "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n",
    "tag": "task: !!python/object/apply:os.system ['touch CANARY']",
    "date": "seed: 2026-01-02",
    "clock": "epochs: 1:30",
    "deep": "epochs: " + "[" * 3000 + "]" * 3000,
    "long_number": "epochs: " + "1" * 5000,
    "long_text": "task: " + "x" * 50_000,
    "huge": "task: " + "x" * 3_000_000,
    "nan": "learning_rate: .nan",
    "infinity": "learning_rate: .inf",
    "boolean": "epochs: true",
    "float": "epochs: 1.5",
    "mapping": "epochs: {a: 1}",
    "unknown": "epoch: 3",
    "number_key": "5: 3",
    "complex_key": "? [a]\n: 3",
    "schema": "schema: 99",
    "schema_text": "schema: x",
    "control": 'task: "white-patch\\x1b[31m"',
    "tab": "a:\n\t- b",
    "markup": "task: '[bold]cat'",
    "code": "task: python:subprocess.Popen,args=[touch,CANARY]",
    "two": "epochs: 1\n---\nepochs: 2",
    "empty_task": "task: ''",
    "null_task": "task: null",
    "list_task": "task: [white-patch]",
    "freeze": "freeze: [[a]]",
}

_FINE = (
    "--version",
    "--help",
    "train --help",
    "list",
    "list --contains gate",
    "show cbam",
    "show se --channels 64",
    "sites resnet18",
    f"train {SMALL} {QUICK}",
    f"train {SMALL} {QUICK} --set learning_rate=1e-3",
    f"train {SMALL} {QUICK} --seed 1732600000",
    f"train {SMALL} {QUICK} --seed 9223372036854775807",
    f"train {SMALL} {QUICK} -a se:bias=no,reduction=4",
    f"train {SMALL} {QUICK} -a se:bias=off",
    f"train {SMALL} {QUICK} -a cbam:reduction=4,spatial=0",
    f"train {SMALL} {QUICK} --out .",
    f"train {SMALL} {QUICK} --out ~/run",
    f"train {SMALL} {QUICK} --out 'a folder with spaces'",
    f"train {SMALL} {QUICK} --out 'f\u00e9lin'",
    f"compare {SMALL} {QUICK} -a none -a se:reduction=4 --seeds 1",
    f"train 'folder:{{photos}},size=16' {QUICK}",
    f"train 'folder:{{imagenet}},size=16' {QUICK}",
    f"train 'folder:{{train_and_test}},size=16' {QUICK}",
    f"train 'folder:{{bytes_names}},size=16' {QUICK}",
    f"train 'folder:{{markup_names}},size=16' {QUICK}",
    "train 'folder:\"{comma}\",size=16' " + QUICK,
    "evaluate {run}",
    "evaluate {run} --json",
    "score {run} --images 4 --steps 4",
    "look {run} --images 2",
    "look {run} {image}",
    "look {run} {bytes_names}",
    "report {comparison}",
)


def fine() -> Iterator[Case]:
    """What must work; most of it in terminals of other encodings, too."""
    for line in _FINE:
        yield Case(line, fine=True)
    for encoding in ("ascii", "cp1252"):
        for line in ("list", "show cbam", f"compare {SMALL} {QUICK} -a none -a se:reduction=4 --seeds 2"):
            yield Case(line, fine=True, environment=(("PYTHONIOENCODING", encoding),))


def refused() -> Iterator[Case]:
    """What must be refused with one sentence."""
    yield from task_options()
    for attention in _ATTENTIONS:
        yield Case(f"train {SMALL} {QUICK} -a {shlex.quote(attention)}")
    for line, names in _COMMANDS:
        command, _, rest = line.partition(" ")
        needs_task = command in ("train", "compare") and rest[:1] == "-" and "recipe" not in rest
        quick = QUICK if "epochs" not in rest and "batch" not in rest else ""
        yield Case(f"{command} {SMALL} {quick} {rest}" if needs_task else line, names)
    for options, names in _OUTPUTS:
        yield Case(f"train {SMALL} {QUICK} {options}", names)
        yield Case(f"compare {SMALL} {QUICK} -a none --seeds 1 {options}", names)
    for task, names in _TASKS:
        yield Case(f"train {shlex.quote(task)} {QUICK}", names)


def recipes() -> dict[str, str]:
    """Recipe files that must be refused."""
    return _RECIPES
