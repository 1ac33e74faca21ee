"""`--serve` of `saccade compare` and `search`: real commands, watched over HTTP and in a browser."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, expect
from playwright.sync_api import Error as BrowserError

from saccade.cli import main
from saccade.cli.display import Pace
from saccade.config import Recipe
from saccade.viz import live
from support.browser import chromium
from support.forked import ForkServer, Outcome

TASK = "white-patch:size=32,patch=[6,12],train=40,validation=20,test=20"
COMMAND = ("compare", TASK, "-a", "none", "-a", "cbam", "--epochs", "2", "--batch-size", "20")
SEARCH = (
    *("search", TASK, "-a", "se", "-a", "eca", "--where", "2", "--epochs", "2", "--batch-size", "20"),
    *("--budget", "8runs", "--finalists", "1", "--seeds", "2"),
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


class Viewer(threading.Thread):
    """Follows a live page as a browser does: reads the states, and loads each new report."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.address = f"http://127.0.0.1:{port}/"
        self.states: list[dict[str, Any]] = []
        self.reports: dict[int, str] = {}
        self.start()

    def run(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                with urlopen(self.address + "events", timeout=60) as events:
                    for line in events:
                        if line.strip():
                            self.see(json.loads(line.removeprefix(b"data: ")))
                return
            except URLError:  # it does not listen yet
                time.sleep(0.01)

    def see(self, state: dict[str, Any]) -> None:
        self.states.append(state)
        if state["report"] and state["report"] not in self.reports:
            with urlopen(self.address + "report.html", timeout=60) as answer:
                self.reports[state["report"]] = answer.read().decode()


def test_a_viewer_sees_each_run_and_the_last_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port, out = free_port(), tmp_path / "out"
    options = ("--seeds", "1", "--out", str(out), "--serve", "--port", str(port))
    viewer = Viewer(port)
    monkeypatch.setattr(live, "_INTERVAL", 0.01)  # so that a run of a moment is not left out
    monkeypatch.setattr("sys.argv", ["saccade", *COMMAND, *options])
    with pytest.raises(SystemExit) as stop:
        main()
    viewer.join()
    assert not stop.value.code
    assert f"live page: http://127.0.0.1:{port}/\n" in capsys.readouterr().out
    assert "1 of 2 runs are done. The results are preliminary." in viewer.reports[1]
    last = viewer.states[-1]
    assert last["state"] == "finished"
    assert viewer.reports[last["report"]] == (out / "report.html").read_text()
    assert "preliminary" not in viewer.reports[last["report"]]
    running = [state for state in viewer.states if "done" in state and state["state"] == "running"]
    assert {state["done"] for state in running} >= {0, 1}
    assert [state["fraction"] for state in running] == sorted(state["fraction"] for state in running)
    assert any(state["seconds_left"] is not None and ", about 0:0" in state["text"] for state in running)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_viewer_of_a_search_sees_the_candidates_and_the_report_of_the_finalists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, out = free_port(), tmp_path / "out"
    viewer = Viewer(port)
    monkeypatch.setattr(live, "_INTERVAL", 0.01)
    monkeypatch.setattr("sys.argv", ["saccade", *SEARCH, "--out", str(out), "--serve", "--port", str(port)])
    with pytest.raises(SystemExit) as stop:
        main()
    viewer.join()
    assert not stop.value.code
    tables = [state["table"] for state in viewer.states if state.get("table")]
    assert [len(table) for table in tables] == sorted(len(table) for table in tables)
    assert tables[-1][0] == ["Candidate", "Validation error", "Epochs", "State"]
    assert {row[0] for row in tables[-1][1:]} == {"none", "se@2", "eca@2"}
    assert {row[3] for row in tables[-1][1:]} == {"complete"}
    texts = [state["text"] for state in viewer.states]
    assert any("Now: none, epoch 1 of 2." in text for text in texts)
    second = re.compile(r"1 of 4 runs of the finalists are done, about \d+:\d\d left\.")
    assert any(second.match(text) for text in texts)
    assert "1 of 4 runs are done. The results are preliminary." in viewer.reports[1]
    fractions = [state["fraction"] for state in viewer.states]
    assert fractions == sorted(fractions)
    last = viewer.states[-1]
    assert last["state"] == "finished"
    assert last["text"].startswith("The search is done: 3 candidates were trained.")
    assert viewer.reports[last["report"]] == (out / "finalists" / "report.html").read_text()


@pytest.mark.parametrize("command", [COMMAND, SEARCH])
@pytest.mark.parametrize("options", [("--serve", "--port"), ("--port",)])
def test_a_port_that_is_taken_or_has_no_page_is_one_sentence(
    command: tuple[str, ...],
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(
            "sys.argv", ["saccade", *command, "--out", str(tmp_path / "out"), *options, str(port)]
        )
        with pytest.raises(SystemExit) as stop:
            main()
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert len(printed.err.splitlines()) == 1
    assert f"port={port}" in printed.err
    assert not printed.out
    assert not (tmp_path / "out").exists()


def test_a_signal_ends_the_comparison_and_the_page(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "out"
    command = [sys.executable, "-m", "saccade", *COMMAND, "--set", "epochs=1000", "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--serve", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    viewer = Viewer(port)
    while not (out / "runs/none-seed0/metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    printed, error = process.communicate(timeout=120)
    viewer.join()
    assert process.returncode == 143
    assert error == "saccade: terminated; run the same command again to continue\n"
    assert printed == f"live page: http://127.0.0.1:{port}/\n"
    assert viewer.states[-1]["state"] == "stopped"
    assert viewer.reports == {}


def test_runs_that_were_complete_before_do_not_count_for_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("saccade.cli.display.time.monotonic", lambda: now)
    pace = Pace()
    for seed, seconds in ((0, 0.01), (1, 10.0)):
        pace.started(Recipe(seed=seed))
        now += seconds
        result: Any = {"attention": "none", "seed": seed, "train_seconds": 9.0}
        assert pace.finished(result) == (seconds > 9)
    assert pace.seconds_left(2) == pytest.approx(20, abs=0.1)


# ---- in a browser ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


def test_a_table_is_shown_until_there_is_a_report(tmp_path: Path, browser: Browser) -> None:
    (tmp_path / "report.html").write_text("<p>report</p>")
    with live.LivePage("search", tmp_path / "report.html") as served, browser.new_page() as page:
        page.goto(served.address)
        expect(page.locator("[data-waiting]")).to_be_visible()
        served.update(table=[["Candidate", "State"], ["se@<b>2", "running"]])
        expect(page.get_by_role("columnheader")).to_have_text(["Candidate", "State"])
        expect(page.get_by_role("cell")).to_have_text(["se@<b>2", "running"])
        expect(page.locator("[data-waiting]")).to_be_hidden()
        served.update(report=1)
        expect(page.frame_locator("iframe").get_by_text("report")).to_be_visible()
        expect(page.locator("table")).to_be_hidden()


def test_the_page_follows_a_comparison(tmp_path: Path, browser: Browser, server: ForkServer) -> None:
    port, out = free_port(), tmp_path / "out"
    arguments = (*COMMAND, "--seeds", "2", "--out", str(out), "--serve", "--port", str(port))
    outcomes: list[Outcome] = []
    folder = tmp_path / "work"
    folder.mkdir()
    command = threading.Thread(
        target=lambda: outcomes.append(server.run(arguments, folder, environment={}, timeout=240))
    )
    command.start()
    said: list[str] = []
    with browser.new_page() as page:
        page.set_default_timeout(60_000)
        deadline = time.monotonic() + 240
        while True:
            try:
                page.goto(f"http://127.0.0.1:{port}/")
                break
            except BrowserError:
                assert time.monotonic() < deadline
                assert command.is_alive(), outcomes
                time.sleep(0.02)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        report = page.frame_locator("iframe")
        seen: set[str] = set()
        while page.locator('html[data-state="finished"]').count() == 0:
            assert time.monotonic() < deadline
            page.wait_for_timeout(50)
            with suppress(BrowserError):  # the frame is loaded again
                seen.update(report.locator(".partial").all_inner_texts())
        assert len(seen) >= 2
        assert all(text.endswith("of 4 runs are done. The results are preliminary.") for text in seen)
        command.join()
        assert outcomes[0].code == 0, outcomes[0].error
        expect(report.locator(".partial")).to_have_count(0)
        expect(report.locator(".board tbody tr")).to_have_count(2)
        expect(page.get_by_role("status").first).to_contain_text("All 4 runs are done in ")
        assert page.locator("progress").evaluate("bar => bar.value") == 1
    assert said == []
