"""HubModel: the mixin of huggingface_hub writes and reads models and runs, on a folder and over HTTP."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import saccade as sc
from saccade.config import Comparison, Recipe
from saccade.errors import BadOption, BadRun
from saccade.experiments import compare
from saccade.sharing.hub import HubModel
from saccade.training import train
from support.errors import raises

SMALL = Recipe(
    task="white-patch:size=16,patch=[4,6],train=24,validation=8,test=12", epochs=1, batch_size=8, seed=3
)


def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=5).eval()
    sc.attach(network, "cbam:reduction=8", where="stage", example_inputs=images())
    return network


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "out"
    compare(Comparison(("none", "se"), 2, SMALL), out)
    return out


def test_a_model_goes_to_a_folder_and_back(model: nn.Module, tmp_path: Path) -> None:
    assert HubModel(model, images()).save_pretrained(tmp_path) is None
    assert {file.name for file in tmp_path.iterdir()} == {
        "README.md",
        "config.json",
        "maps.png",
        "model.safetensors",
    }
    loaded = HubModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(images()), model(images()))
    assert torch.equal(sc.load(tmp_path)(images()), model(images()))
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.to_dict()["library_name"] == "saccade"
    assert card.data.tags == ["attention", "cbam"]
    assert '| `layer1.0.attention` | `cbam` | `{"reduction": 8}` |' in card.text
    assert "](maps.png)" in card.text
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.size == (2 * 224 + 8, 2 * 224 + 8)
        above, below = picture.crop((0, 0, 224, 224)), picture.crop((0, 232, 224, 456))
        assert above.tobytes() != below.tobytes()


def test_a_model_without_images_has_a_card_without_maps(model: nn.Module, tmp_path: Path) -> None:
    HubModel(model).save_pretrained(tmp_path)
    assert "maps.png" not in (tmp_path / "README.md").read_text()
    assert not (tmp_path / "maps.png").exists()


def test_a_run_goes_to_a_folder_and_back(comparison: Path, tmp_path: Path) -> None:
    run = comparison / "runs" / "se-seed1"
    shared = HubModel(run)
    shared.save_pretrained(tmp_path)
    pixels = 255 * torch.rand(2, 3, 16, 16)
    assert torch.equal(HubModel.from_pretrained(tmp_path)(pixels), sc.load(run)(pixels))
    assert not (tmp_path / "config.json").exists()
    card = (tmp_path / "README.md").read_text()
    (row,) = re.findall(r"^\| `se` \| .*$", card, re.MULTILINE)
    mean = json.loads((comparison / "results.json").read_text())["leaderboard"]
    error = next(each["error"]["mean"] for each in mean if each["attention"] == "se")
    assert f"{100 * error:.2f}%" in row
    assert (run / "recipe.yaml").read_text().strip() in card
    assert "pixels from 0 to 255" in card
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.size == (4 * 232 - 8, 456)
    again = tmp_path / "again"  # a folder that was shared can be shared again, without its comparison
    HubModel.from_pretrained(tmp_path).save_pretrained(again)
    error = json.loads((run / "result.json").read_text())["error"]
    assert f"| {100 * error:.2f}% | 1 |" in (again / "README.md").read_text()


def test_a_run_of_clips_has_no_picture(tmp_path: Path) -> None:
    task = "moving-digits:frames=4,size=16,moment=1,train=16,validation=8,test=8"
    train(replace(SMALL, task=task, attention="temporal_pool"), tmp_path / "run")
    HubModel(tmp_path / "run").save_pretrained(tmp_path / "shared")
    assert not (tmp_path / "shared" / "maps.png").exists()
    assert "maps.png" not in (tmp_path / "shared" / "README.md").read_text()


def test_changed_weights_of_a_run_are_refused(comparison: Path, tmp_path: Path) -> None:
    shared = HubModel(comparison / "runs" / "se-seed1")
    with torch.no_grad():
        next(shared.parameters()).add_(1)
    with raises(BadOption, owner="HubModel", option="content"):
        shared.save_pretrained(tmp_path / "out")


def test_files_of_others_are_kept(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["ViT"]}')
    with raises(BadRun):
        HubModel(model).save_pretrained(tmp_path)
    with raises(BadRun):
        HubModel.from_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"architectures": ["ViT"]}'


# ------------------------------------------------------------------------------------------------ the hub


def test_what_is_pushed_is_the_folder(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create_repo(_: Any, repo_id: str, **__: Any) -> Any:
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(_: Any, *, repo_id: str, folder_path: Path, **__: Any) -> str:
        shutil.copytree(folder_path, tmp_path / repo_id)
        return "commit"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    assert HubModel(model, images()).push_to_hub("somebody/attention") == "commit"
    assert torch.equal(sc.load(tmp_path / "somebody" / "attention")(images()), model(images()))
    assert (tmp_path / "somebody" / "attention" / "README.md").exists()


class Hub(BaseHTTPRequestHandler):
    """The repository somebody/attention, the content of `folder`."""

    folder: Path
    sha = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        files = sorted(str(f.relative_to(self.folder)) for f in self.folder.rglob("*") if f.is_file())
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/somebody/attention/tree/"):
            sizes = ((file, (self.folder / file).read_bytes()) for file in files)
            content = json.dumps(
                [{"type": "file", "path": f, "size": len(b), "oid": sha1(b).hexdigest()} for f, b in sizes]
            )
        elif path.startswith("/api/models/somebody/attention"):
            content = json.dumps(
                {"id": "somebody/attention", "sha": self.sha, "siblings": [{"rfilename": f} for f in files]}
            )
        elif (file := path.removeprefix(f"/somebody/attention/resolve/{self.sha}/")) in files:
            self.reply(200, (self.folder / file).read_bytes())
            return
        else:
            self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        self.reply(200, content.encode(), {"Content-Type": "application/json"})

    def reply(self, code: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        extra = {"ETag": f'"{sha1(content).hexdigest()}"', "X-Repo-Commit": self.sha, **(headers or {})}
        for name, value in {"Content-Length": str(len(content)), **extra}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Hub,), {"folder": folder})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


LOAD = """
import sys, torch
from saccade.errors import SaccadeError
from saccade.sharing.hub import HubModel
try:
    HubModel.from_pretrained("somebody/nothing")
except SaccadeError as error:
    print(type(error).__name__, str(error).count("\\n"))
x = torch.load(sys.argv[1])
print(torch.equal(HubModel.from_pretrained("somebody/attention")(x["x"]), x["y"]))
"""


@pytest.mark.process
def test_a_model_is_loaded_over_http(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = tmp_path / "folder", tmp_path / "cache"
    HubModel(model, images()).save_pretrained(folder)
    (folder / "evil.py").write_text("raise SystemExit(9)")
    torch.save({"x": images(), "y": model(images())}, tmp_path / "expected.pt")
    with hub(folder) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HOME", str(cache))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        done = subprocess.run(
            [sys.executable, "-c", LOAD, str(tmp_path / "expected.pt")],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["BadRun", "0", "True"]
    downloaded = {file.name for file in cache.rglob("snapshots/*/*")}
    assert downloaded == {"config.json", "model.safetensors"}
