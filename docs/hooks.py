"""Add the generated pages to the documentation site. mkdocs.yml names this file as its hook.

The site holds the guides of docs/ as they are, files of the repository (README, CHANGELOG, ...) as further
pages, and what is generated from the code: one page per mechanism, the command line and the Python reference.
"""

from __future__ import annotations

import inspect
import json
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import saccade as sc
from saccade.cli import app
from saccade.layers.spec import Domain
from saccade.profiling import mechanism_cost

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))

import catalog  # noqa: E402  (a script beside this one)
import notebooks  # noqa: E402
import results  # noqa: E402

#: File of the repository -> page of the site.
PAGES = {
    "README.md": "index.md",
    "README.zh-CN.md": "README.zh-CN.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "SECURITY.md": "security.md",
    "CITATION.cff": "citation.md",
}

#: Page of the Python reference -> what it describes.
REFERENCE = {
    "saccade": "Mechanisms, attachment, recording, pages and errors.",
    "saccade.attribution": "Maps that explain a score of a model.",
    "saccade.metrics": "Scores of maps: localization, faithfulness, sanity.",
    "saccade.maps": "Attention maps.",
    "saccade.models": "Models and backbones.",
    "saccade.profiling": "Parameters, FLOPs, latency, memory.",
    "saccade.search": "The search for an attention.",
    "saccade.sharing.hub": "Models on the hub of Hugging Face.",
    "saccade.testing": "The contract of mechanisms.",
}

#: A link inside the repository: its path and its anchor.
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]*)(#[^)\s]*)?(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the mechanisms to the navigation, by domain."""
    domains = {domain: sc.mechanisms(domain=domain) for domain in get_args(Domain)}
    pages = [
        {domain.capitalize(): [f"mechanisms/{name}.md" for name in names]}
        for domain, names in domains.items()
    ]
    for entry in config.nav or ():
        if "Mechanisms" in entry:
            entry["Mechanisms"] = ["mechanisms.md", *pages]
        if "Reference" in entry:
            entry["Reference"].insert(0, {"Python": [f"python/{package}.md" for package in REFERENCE]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the notebooks with what their cells print and draw."""
    notebook_files = notebooks.pages(execute=config.extra["execute_notebooks"])
    for name, content in {**generated(), **notebook_files}.items():
        if present := files.get_file_from_path(name):
            files.remove(present)
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead the links of guides to the pages of the site."""
    return markdown if page.file.generated_by else relink(markdown, "docs", page.file.src_uri)


def generated() -> dict[str, str]:
    """Return the generated pages by their paths in the site."""
    pages = {page: relink((ROOT / name).read_text(), "", page) for name, page in PAGES.items()}
    pages["citation.md"] = f"# Citation\n\n```yaml\n{pages['citation.md']}```\n"
    pages["mechanisms.md"] = relink(overview(), "docs", "mechanisms.md")
    pages |= {f"mechanisms/{name}.md": mechanism(sc.spec(name)) for name in sc.mechanisms()}
    pages |= {f"python/{package}.md": reference(package) for package in REFERENCE}
    return pages | {"command-line.md": command_line(), "examples.md": examples()}


def relink(text: str, folder: str, page: str) -> str:
    """Change links to files of the repository, seen from a folder in it, into links between pages."""

    def target(link: re.Match[str]) -> str:
        path, anchor = posixpath.normpath(posixpath.join(folder, link[1])), link[2] or ""
        if path == "docs/mechanisms.md" and anchor:
            path, anchor = f"mechanisms/{anchor[1:]}.md", ""
        elif path.startswith("examples/"):
            is_notebook = ROOT / path in notebooks.scripts()
            stem = Path(path).stem
            path, anchor = (f"notebooks/{stem}.md", "") if is_notebook else ("examples.md", f"#{stem}")
        else:
            path = PAGES.get(path, path.removeprefix("docs/"))
        return posixpath.relpath(path, posixpath.dirname(page) or ".") + anchor

    return _LINK.sub(target, text)


def overview() -> str:
    """Return the table of all mechanisms. The sections of docs/mechanisms.md are pages of their own."""
    specs = [sc.spec(name) for domain in get_args(Domain) for name in sc.mechanisms(domain=domain)]
    table = "\n".join(catalog.table(specs)).replace("](#", "](mechanisms.md#")
    return f"{catalog.HEAD}\n{table}"


def mechanism(spec: sc.Spec) -> str:
    """Return the page of a mechanism: its section of the catalog, cost, measurements and reference."""
    _, _, *section = catalog.section(spec)
    cost = mechanism_cost(spec)
    lines = [f"# {spec.name}", "", *section]
    lines += [f"Cost for {cost.inputs}: {cost.parameters:,} parameters, {cost.flops:,} FLOPs.", ""]
    if rows := [*measurements(spec.name)]:
        lines += ["## Measured", "", "Differences from the same network without attention, in points."]
        lines += results.table(("task", "attention", "test error, %", "vs none, points"), rows)
        lines += [f"[Results](../results.md) has the commands and the protocol; {results.PROTOCOL}.", ""]
    lines += ["## Reference", ""]
    for item in (spec.module, spec.function):
        lines += [f"::: {item.__module__}.{item.__qualname__}", "    options:", "      heading_level: 3", ""]
    return "\n".join(lines)


def measurements(name: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield the rows of a mechanism in the leaderboards of benchmarks/results."""
    for path in sorted(results.FILES.glob("*.json")):
        result = json.loads(path.read_text())
        for row in result.get("leaderboard", ()):
            if re.match(r"\w+", row["attention"])[0] == name:  # type: ignore[index]
                error, difference = results.interval(row["error"]), results.interval(row["difference"])
                yield path.stem, f"`{row['attention']}`", error, difference


def reference(package: str) -> str:
    """Return the reference of the public names of a package."""
    face = sys.modules[package] if package in sys.modules else __import__(package, fromlist=["_"])
    lines = [f"# {package}", "", REFERENCE[package], ""]
    for name in sorted(face.__all__, key=str.lower):
        item = getattr(face, name)
        described_there = package != "saccade" and name in sc.__all__
        if (inspect.isfunction(item) or inspect.isclass(item)) and not described_there:
            lines += [f"::: {item.__module__}.{item.__qualname__}"]
            lines += ["    options:", f"      heading: {package}.{name}", f"      toc_label: {name}", ""]
    return "\n".join(lines)


def command_line() -> str:
    """Return the help of each command."""
    group: Any = typer.main.get_command(app)
    lines = ["# Command line", "", "`saccade COMMAND --help` prints the same in a terminal.", ""]
    lines += [f"{group.epilog} Errors are one sentence on standard error.", ""]
    for name, command in group.commands.items():
        context = command.make_context(name, [], resilient_parsing=True)
        usage = " ".join(["saccade", name, *command.collect_usage_pieces(context)])
        lines += [f"## saccade {name}", "", inspect.cleandoc(command.help), "", f"```\n{usage}\n```", ""]
        records = [row for each in command.get_params(context) if (row := each.get_help_record(context))]
        lines += ["| | |", "|---|---|", *(f"| `{a}` | {_cell(b)} |" for a, b in records), ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


def examples() -> str:
    """Return the scripts of examples/ that are not notebooks, each with its docstring."""
    lines = ["# Examples", "", "Complete scripts, which the tests run.", ""]
    for path in sorted({*(ROOT / "examples").glob("*.py")} - {*notebooks.scripts()}):
        lines += [f"## {path.stem} {{ #{path.stem} }}", "", f"```python\n{path.read_text()}```", ""]
    return "\n".join(lines)
