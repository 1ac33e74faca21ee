"""The types of the installed package, as mypy and pyright show them to a user: those of the wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: torch is left out: reading its types takes a minute, and they are not the subject.
CONFIG = """[mypy]
strict = true
[mypy-torch.*]
follow_imports = skip
ignore_missing_imports = true
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an environment into which the wheel was installed, and nothing else."""
    folder = tmp_path_factory.mktemp("typing")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    (site,) = folder.glob("env/lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    (folder / "mypy.ini").write_text(CONFIG)
    return folder


def check(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(program)
    python = folder / "env" / "bin" / "python"
    command = ["mypy", "--cache-dir", os.devnull, "--python-executable", str(python), "program.py"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_a_program_of_a_user_is_typed(installed: Path) -> None:
    program = (ROOT / "tests/support/consumer.py").read_text()
    result = check(installed, program)
    assert result.returncode == 0, result.stdout
    mistakes = {
        "exported.max_error": 'has no attribute "worst_error"',
        'to="onnx"': "incompatible type",
        "sc.attached(model)": 'has no attribute "attachd"',
    }
    wrong = program.replace("exported.max_error", "exported.worst_error")
    wrong = wrong.replace('to="onnx"', "to=3").replace("sc.attached(model)", "sc.attachd(model)")
    result = check(installed, wrong)
    assert result.returncode == 1
    assert all(message in result.stdout for message in mistakes.values()), result.stdout


def test_without_its_marker_the_package_has_no_types(installed: Path) -> None:
    (marker,) = installed.glob("env/lib/python*/site-packages/saccade/py.typed")
    marker.unlink()
    try:
        result = check(installed, "import saccade\n")
    finally:
        marker.touch()
    assert "missing library stubs or py.typed marker" in result.stdout


def test_pyright_sees_the_same_types(installed: Path) -> None:
    pyright = shutil.which("pyright")
    if pyright is None:
        pytest.skip("pyright is not installed")
    settings = {"venvPath": ".", "venv": "env", "reportMissingImports": False}
    (installed / "pyrightconfig.json").write_text(json.dumps(settings))
    program = (ROOT / "tests/support/consumer.py").read_text()
    wrong = program.replace("exported.max_error", "exported.worst_error").replace('to="onnx"', "to=3")

    def problems(program: str) -> list[str]:
        (installed / "program.py").write_text(program)
        command = [pyright, "--outputjson", "program.py"]
        result = subprocess.run(command, cwd=installed, capture_output=True, text=True)
        return [each["rule"] for each in json.loads(result.stdout)["generalDiagnostics"]]

    assert problems(program) == []
    assert problems(wrong) == ["reportArgumentType", "reportAttributeAccessIssue"]
