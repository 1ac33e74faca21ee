"""Build the wheel, install it into an empty environment, and run the smoke test there.

    python3.12 tests/packaging/clean_install.py [--versions lowest] [--folder FOLDER]

The environment has the Python that runs this script, and is removed at the end. The wheel is installed
twice: alone, with the dependencies of the core, and then with the extra `report`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMOKE = Path(__file__).with_name("smoke.py")


def lowest_versions(extras: list[str]) -> list[str]:
    """Return the lowest versions that `pyproject.toml` declares for the core and for extras, as constraints.

    Example:
        >>> lowest_versions([])
        ['torch==2.10']
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts, seen = [*project["dependencies"]], set[str]()
    waiting = [*extras]
    while waiting:
        extra = waiting.pop()
        seen.add(extra)
        for text in project["optional-dependencies"][extra]:
            if inner := re.fullmatch(r"saccade\[(.*)\]", text):
                waiting += {*inner[1].split(",")} - seen
            else:
                texts.append(text)
    return sorted(text.replace(">=", "==") for text in {*texts})


def main() -> None:
    """Install and test."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--versions", choices=["newest", "lowest"], default="newest", help="of dependencies")
    parser.add_argument("--folder", type=Path, help="where the environment is created, for a while")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        venv.create(folder / "env", with_pip=True)
        python = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"

        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

        def run(*arguments: str) -> None:
            print("python", *arguments, flush=True)
            subprocess.run([str(python), *arguments], cwd=folder, env=environment, check=True)

        run("-m", "pip", "install", "--quiet", "--upgrade", "pip")
        run("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
        (wheel,) = folder.glob("*.whl")
        constraints = folder / "constraints.txt"
        lowest = options.versions == "lowest"
        constraints.write_text("\n".join(lowest_versions(["report"]) if lowest else []))
        install = ["-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        run(*install, str(wheel))
        run(str(SMOKE), "library")
        run(*install, f"{wheel}[report]")
        run("-m", "pip", "check")
        run("-m", "pip", "list")
        run(str(SMOKE), "library", "commands")


if __name__ == "__main__":
    main()
