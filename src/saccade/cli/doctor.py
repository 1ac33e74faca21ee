"""saccade doctor: versions, devices, what is installed, and a short self-test."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import typer

from saccade.cli.options import Json
from saccade.cli.terminal import announce, echo
from saccade.errors import printable

_REQUIREMENT = re.compile(r"""([\w.-]+)(\[[\w, -]*\])?[^;]*;.*\bextra\s*==\s*['"]([\w-]+)['"]""")
_PACKAGE = "saccade"
_UNLISTED = ("all", "dev", "docs")  # the union of the others, and what contributors need


def doctor(as_json: Json = False) -> None:
    """Check the installation: versions, devices, the packages of each extra, and a self-test of seconds.

    The exit code is 1 if a self-test fails.
    """
    announce()
    from saccade import __version__
    from saccade.results import hardware_info

    devices = find_devices()
    tests = {
        f"{name} on {device}": _outcome(test, device) for device in devices for name, test in TESTS.items()
    }
    report = {
        "saccade": __version__,
        "hardware": hardware_info(),
        "devices": devices,
        "extras": missing_packages(requires(_PACKAGE) or []),
        "tests": tests,
    }
    if as_json:
        typer.echo(json.dumps(report, indent=1))
    else:
        _print(report)
    if any(problem is not None for problem in tests.values()):
        raise typer.Exit(1)


def find_devices() -> list[str]:
    """Return the devices that torch can use."""
    import torch

    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def missing_packages(requirements: list[str]) -> dict[str, list[str]]:
    """Return the packages of each extra that are not installed.

    Args:
        requirements: Requirements of a distribution, as in its metadata.

    Example:
        >>> missing_packages(["torch>=2", "no-such-package>=1; extra == 'x'", "torch; extra == 'y'"])
        {'x': ['no-such-package'], 'y': []}
    """
    missing: dict[str, list[str]] = {}
    for match in filter(None, map(_REQUIREMENT.match, requirements)):
        package, _, extra = match.groups()
        missing.setdefault(extra, [])
        if package != _PACKAGE and not _is_installed(package):
            missing[extra].append(package)
    return missing


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _attach_and_record(device: str) -> None:
    """Attach attention to a network, record it, train one step, and detach it."""
    import torch
    from torch import nn

    import saccade as sc

    images = torch.randn(2, 3, 16, 16, device=device)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1)).to(device)
    before = model(images)
    sc.attach(model, "cbam", where=["0"], example_inputs=images, identity=False)
    with sc.record(model) as maps:
        output = model(images)
    output.square().mean().backward()
    heat = next(iter(maps.values())).heatmap((16, 16))
    sc.detach(model)
    if heat.shape != (2, 16, 16) or not heat.isfinite().all():
        raise RuntimeError("the recorded map is wrong")
    if torch.allclose(output, before) or not torch.allclose(model(images), before):
        raise RuntimeError("attention has no effect, or the model is not restored")


def _attend(device: str) -> None:
    """Compare attention between positions with its formula."""
    import torch

    from saccade import create

    layer, q = create("scaled_dot_product", 8).to(device), torch.randn(2, 5, 2, 8, device=device)
    weights = torch.einsum("bqhc,bkhc->bhqk", q, q).div(8**0.5).softmax(-1)
    if not torch.allclose(layer(q, q, q), torch.einsum("bhqk,bkhc->bqhc", weights, q), rtol=1e-2, atol=1e-2):
        raise RuntimeError("attention differs from its formula")


#: The self-tests by name; each raises an error if it fails on a device.
TESTS: Mapping[str, Callable[[str], None]] = {"attach, record, train": _attach_and_record, "attend": _attend}


def _outcome(test: Callable[[str], None], device: str) -> str | None:
    """Return what fails, or None."""
    try:
        test(device)
    except Exception as error:  # a broken installation fails anywhere
        return printable(f"{type(error).__name__}: {error}", 300)
    return None


def _print(report: Mapping[str, Any]) -> None:
    machine = report["hardware"]
    versions = f"Python {machine['python']}, torch {machine['torch']}, {machine['platform']}"
    echo(f"saccade {report['saccade']}, {versions}")
    echo(f"{machine['cpu']}, {machine['cores']} cores; devices: {', '.join(report['devices'])}")
    for extra, missing in report["extras"].items():
        if extra in _UNLISTED:
            continue
        lacks = f"lacks {', '.join(missing)}; pip install 'saccade[{extra}]'" if missing else "installed"
        echo(f"{extra:<12} {lacks}")
    for name, problem in report["tests"].items():
        echo(f"{'ok' if problem is None else 'FAILED':<12} {name}{f': {problem}' if problem else ''}")
