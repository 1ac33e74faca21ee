"""The workflows and templates are valid YAML, ask for few permissions and call targets of the Makefile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import saccade

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def load(path: Path) -> dict[str, Any]:
    content = yaml.load(path.read_text(), yaml.BaseLoader)  # which keeps the key `on` and versions as text
    assert isinstance(content, dict)
    return content


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_the_workflows_exist() -> None:
    assert [path.stem for path in WORKFLOWS] == ["docs", "lint", "release", "soak", "tests"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_complete(path: Path) -> None:
    workflow = load(path)
    assert set(workflow) >= {"name", "on", "permissions", "jobs"}
    assert workflow["name"] == path.stem
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert set(job) >= {"runs-on", "timeout-minutes", "steps"}
    for step in steps(workflow):
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"[\w-]+/[\w-]+@[\w/.]+", step.get("uses", "owner/action@v1"))


def test_every_make_target_exists() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = [step["run"] for path in WORKFLOWS for step in steps(load(path)) if "run" in step]
    called = {target for command in commands for target in re.findall(r"make ([\w-]+)", command)}
    assert called == {"docs", "install", "lint", "soak", "test", "test-fast"}
    assert called <= set(targets)
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == "make test"


def test_the_tests_run_on_every_python_of_the_classifiers() -> None:
    classified = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    jobs = load(ROOT / ".github/workflows/tests.yml")["jobs"]
    for name in ("fast", "install"):
        assert jobs[name]["strategy"]["matrix"]["python-version"] == classified


def test_the_release_uses_trusted_publishing() -> None:
    workflow = load(ROOT / ".github/workflows/release.yml")
    publish = workflow["jobs"]["publish"]
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"
    assert publish["steps"][-1] == {"uses": "pypa/gh-action-pypi-publish@release/v1"}
    assert "password" not in (ROOT / ".github/workflows/release.yml").read_text()


@pytest.mark.parametrize("name", ["bug", "mechanism"])
def test_an_issue_form_is_complete(name: str) -> None:
    form = load(ROOT / f".github/ISSUE_TEMPLATE/{name}.yml")
    assert set(form) >= {"name", "description", "body"}
    assert all(field["attributes"]["label"] for field in form["body"])


def test_the_citation_names_the_package_and_its_license() -> None:
    citation = load(ROOT / "CITATION.cff")
    assert set(citation) >= {"cff-version", "message", "title", "authors"}
    assert citation["license"] == "Apache-2.0"


def test_every_script_that_a_workflow_runs_exists() -> None:
    commands = [step["run"] for path in WORKFLOWS for step in steps(load(path)) if "run" in step]
    scripts = {script for command in commands for script in re.findall(r"python (\S+\.py)", command)}
    assert scripts == {"tests/packaging/clean_install.py"}
    assert all((ROOT / script).is_file() for script in scripts)


def test_a_version_has_the_same_number_and_date_everywhere() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    first, *_ = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    citation = load(ROOT / "CITATION.cff")
    assert first == (citation["version"], citation["date-released"])
    assert first[0] == saccade.__version__
    assert changelog.index("## [Unreleased]") < changelog.index(f"## [{first[0]}]")
