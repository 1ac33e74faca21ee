"""Pages and pictures replace those of saccade, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import saccade as sc
from saccade.errors import BadRun
from saccade.models import SmallCNN
from saccade.viz import Look
from support.errors import raises


@pytest.fixture(scope="module")
def seen() -> Look:
    return sc.look(SmallCNN(2, attention={2: "se"}), torch.rand(1, 3, 16, 16))


def test_a_page_replaces_a_page_but_no_file_of_the_user(seen: Look, tmp_path: Path) -> None:
    page = seen.save_html(tmp_path / "look.html")
    first = page.read_bytes()
    assert seen.save_html(page).read_bytes() == first
    (tmp_path / "thesis.html").write_text("<html>mine</html>")
    with raises(BadRun, owner=str(tmp_path / "thesis.html"), option="overwrite", value=False):
        seen.save_html(tmp_path / "thesis.html")
    assert (tmp_path / "thesis.html").read_text() == "<html>mine</html>"
    assert seen.save_html(tmp_path / "thesis.html", overwrite=True).read_bytes() == first


def test_a_picture_replaces_a_picture_but_no_file_of_the_user(seen: Look, tmp_path: Path) -> None:
    (picture,) = seen.save_png(tmp_path)
    assert seen.save_png(tmp_path) == [picture]
    picture.write_bytes(b"mine")
    with raises(BadRun, owner=str(picture), option="overwrite", value=False):
        seen.save_png(tmp_path)
    assert picture.read_bytes() == b"mine"
    seen.save_png(tmp_path, overwrite=True)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", ["/dev/null", "/dev/full", "/"])
def test_devices_and_folders_stay(path: str, seen: Look) -> None:
    before = Path(path).stat().st_mode
    with raises(BadRun, owner=path):
        seen.save_html(path)
    assert Path(path).stat().st_mode == before


def test_the_root_folder_is_no_folder_of_pictures(seen: Look) -> None:
    with raises(BadRun, owner="/", option="out", value="/"):
        seen.save_png("/")


def test_large_images_are_drawn_reduced() -> None:
    large = torch.randint(0, 255, (1500, 2000, 3), dtype=torch.uint8).numpy()
    seen = sc.look(SmallCNN(2, attention={2: "se"}), [large], size=32)
    assert seen.inputs.display_images[0].shape == (1200, 1600, 3)
