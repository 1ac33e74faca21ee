"""The README: its example runs, its table is what the result file says, its links lead somewhere."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import saccade as sc

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import readme  # noqa: E402  (a script beside the package)

TEXT = readme.README.read_text()


def test_the_snippet_runs_and_gives_what_it_says() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len([line for line in snippet.splitlines() if line]) == 6
    names: dict[str, Any] = {}
    exec(snippet, names)
    heat = names["heat"]
    assert tuple(heat.shape) == (2, 64, 64)
    assert 0 <= heat.min() <= heat.max() <= 1
    assert "layer4.1" in names["maps"]


def test_look_saves_a_page_as_the_text_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall(r"`(sc\.look\(model, images\))` shows", TEXT)
    (call,) = re.findall(r"`(\.save_html\([^`]*\))`", TEXT)
    model, images = timm.create_model("resnet18"), torch.randn(2, 3, 64, 64)
    sc.attach(model, "cbam", where="residual", example_inputs=images)
    eval(line + call, {"sc": sc, "model": model, "images": images})
    assert "Attention of" in (tmp_path / "look.html").read_text()


def test_the_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"^make ([a-z-]+) ", TEXT, re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= set(targets)


@pytest.mark.parametrize(("page", "count"), [("backbones.md", 3), ("look.md", 1)])
def test_the_examples_of_the_guide_run(
    page: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) == count
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    if page == "look.md":
        assert (tmp_path / "look.html").stat().st_size > 10_000
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", guide) if "://" not in link]
    assert links
    assert not [link for link in links if not (ROOT / "docs" / link).exists()]


def test_the_examples_of_explanations_run() -> None:
    guide = (ROOT / "docs/explanations.md").read_text()
    model = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64)
    blocks = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {"model": model, "images": torch.rand(1, 3, 64, 64)})
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", guide)
    assert "explanations.jpg" in links
    assert not [link for link in links if not (ROOT / "docs" / link).exists()]


def test_the_table_is_generated_from_the_result() -> None:
    summary = json.loads(readme.RESULT.read_text())
    assert readme.updated(TEXT, summary) == TEXT
    summary["leaderboard"][0]["error"]["mean"] += 0.1
    assert readme.updated(TEXT, summary) != TEXT


def test_the_chinese_readme_has_the_same_code_and_commands() -> None:
    chinese = (ROOT / "README.zh-CN.md").read_text()
    for text in re.findall(r"```python\n(.*?)```", chinese, re.DOTALL):
        code = re.sub(r"  # .*", "", text)
        assert code in re.sub(r"  # .*", "", TEXT)
    for command in re.findall(r"^(make [a-z-]+|pip install .*) ?", chinese, re.MULTILINE):
        assert command.strip() in TEXT


def test_links_and_pictures_exist() -> None:
    pages = [
        "README.md",
        "README.zh-CN.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "docs/architecture.md",
    ]
    links = {page: re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()) for page in pages}
    assert "docs/white-patch.jpg" in links["README.md"]
    assert not [
        (page, link)
        for page in pages
        for link in links[page]
        if "://" not in link and not (ROOT / page).parent.joinpath(link).exists()
    ]
