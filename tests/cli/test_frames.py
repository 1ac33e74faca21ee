"""saccade look --watch: images that arrive in a folder while the command runs."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from saccade.cli import main
from support.forked import Child, ForkServer


def paint(file: Path, color: int) -> None:
    Image.new("RGB", (32, 32), (color, 0, 0)).save(file)


def wait_for(child: Child, event: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not event():
        assert child.poll() is None, child.read("err")
        assert time.monotonic() < deadline, child.read("err")
        time.sleep(0.02)


@pytest.mark.process
def test_frames_are_looked_at_when_they_arrive(tmp_path: Path, server: ForkServer) -> None:
    frames, out = tmp_path / "frames", tmp_path / "out"
    frames.mkdir()
    arguments = ("look", "timm:test_resnet", str(frames), "--watch", "--json", "--out", str(out))
    child = server.start(arguments, tmp_path / "child")
    page = out / "look.html"

    def arrives(name: str, color: int) -> Path:
        paint(frames / f"{name}.png", color)
        wait_for(child, lambda: page.exists() and f'"caption":"{name}"' in page.read_text())
        return next(out.glob(f"{name}.*.png"))

    first = arrives("frame9", 90)
    with (frames / "frame10.png").open("wb") as file:  # a file that is written slowly
        file.write(b"half ")
        file.flush()
        wait_for(child, lambda: "skipped: " in child.read("err"))
    second = arrives("frame11", 110)
    paint(frames / "frame10.png", 100)
    wait_for(child, lambda: '"caption":"frame10"' in page.read_text())
    paint(frames / "frame9.png", 95)
    wait_for(child, lambda: '"caption":"frame9-2"' in page.read_text())
    assert '"caption":"frame11"' not in page.read_text()  # it shows the newest
    child.send_signal(signal.SIGINT)
    output, error = child.communicate(timeout=60)
    assert child.returncode == 0, error
    report = json.loads(output)
    assert report["images"] == ["frame9", "frame11", "frame10", "frame9-2"]
    assert report["layers"] == [first.name.split(".", 1)[1].removesuffix(".png")]
    assert report["files"][:3] == [str(page), str(first), str(second)]
    assert len(report["files"]) == 5
    assert error.count("skipped: ") == 1


@pytest.mark.process
def test_nothing_may_arrive(tmp_path: Path, server: ForkServer) -> None:
    (tmp_path / "frames").mkdir()
    arguments = ("look", "timm:test_resnet", "../frames", "--watch", "--out", "../out")
    child = server.start(arguments, tmp_path / "child")
    said = tmp_path / "child.err"  # the last file that the child opens
    wait_for(child, lambda: said.exists() and "watching ../frames" in child.read("out") + child.read("err"))
    child.send_signal(signal.SIGINT)
    output, error = child.communicate(timeout=60)
    assert child.returncode == 0, error
    assert "no image appeared" in output + error
    assert not (tmp_path / "out").exists()


def test_only_a_folder_can_be_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(tmp_path / "photo.png", 0)
    for images in ([], [str(tmp_path / "photo.png")]):
        arguments = [
            "saccade",
            "look",
            "timm:test_resnet",
            *images,
            "--watch",
            "--out",
            str(tmp_path / "out"),
        ]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        assert "--watch needs a folder in which images appear" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
