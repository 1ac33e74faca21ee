"""The live page: what its server sends, to whom, and that it is never half of a file."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from saccade.errors import BadOption
from saccade.files import atomic_write
from saccade.viz import LivePage
from support.errors import raises


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LivePage]:
    with LivePage("white-patch", tmp_path / "report.html") as page:
        yield page


def get(page: LivePage, path: str, **headers: str) -> bytes:
    with urlopen(Request(page.address + path, headers=headers), timeout=10) as answer:
        body: bytes = answer.read()
    return body


def refusal(page: LivePage, path: str, **headers: str) -> int:
    with pytest.raises(HTTPError) as raised:
        get(page, path, **headers)
    raised.value.close()
    return raised.value.code


def test_it_serves_the_page_the_report_and_nothing_else(live: LivePage, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>earlier</p>")
    (tmp_path / "secret").write_text("secret")
    assert b"<h1>white-patch</h1>" in get(live, "")
    assert refusal(live, "report.html") == 404  # no run is done
    live.update(report=1)
    assert get(live, "report.html") == b"<p>earlier</p>"
    for path in ("secret", "../secret", "runs/", "report.html/.."):
        assert refusal(live, path) == 404
    with pytest.raises(HTTPError) as raised:
        urlopen(Request(live.address, data=b"", method="POST"), timeout=10)
    raised.value.close()
    assert raised.value.code == 501


def test_it_answers_this_machine_alone(live: LivePage) -> None:
    port = int(live.address.rpartition(":")[2].strip("/"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)
    assert get(live, "", Host=f"localhost:{port + 1}")  # through a tunnel
    for host in ("example.org", f"example.org:{port}", "127.0.0.1.example.org"):
        assert refusal(live, "", Host=host) == 403


def test_states_are_pushed_as_they_change(live: LivePage) -> None:
    connection = http.client.HTTPConnection(live.address.split("/")[2], timeout=10)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"] == "text/event-stream"

    def state() -> dict[str, object]:
        line = answer.readline()
        assert answer.readline() == b"\n"
        read: dict[str, object] = json.loads(line.removeprefix(b"data: "))
        return read

    assert state()["state"] == "running"
    live.update(text="1 of 2 runs are done", report=1)
    assert state()["text"] == "1 of 2 runs are done"
    live.update(state="stopped")
    assert (last := state())["state"] == "stopped"
    assert last["report"] == 1
    assert answer.read() == b""
    connection.close()


def test_the_end_waits_for_an_open_page_to_load_the_report(live: LivePage, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("last")
    live.finish(report=1)  # without a viewer, at once
    assert not live.delivered.is_set()
    live.update(state="running")
    connection = http.client.HTTPConnection(live.address.split("/")[2], timeout=10)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.readline()
    loaded: list[bytes] = []

    def load() -> None:
        while b"finished" not in answer.readline():
            pass
        loaded.append(get(live, "report.html"))

    reader = threading.Thread(target=load)
    reader.start()
    live.finish(report=2)
    assert live.delivered.is_set()
    reader.join()
    assert loaded == [b"last"]
    connection.close()


def test_a_report_is_whole_while_it_is_replaced(live: LivePage, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    versions = [letter * 200_000 for letter in (b"a", b"b")]
    path.write_bytes(versions[0])
    live.update(report=1)
    done = threading.Event()

    def replace() -> None:
        number = 0
        while not done.is_set():
            number += 1
            with atomic_write(path) as file:
                for start in range(0, 200_000, 50_000):
                    file.write(versions[number % 2][start : start + 50_000])

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        seen = [get(live, "report.html") for _ in range(60)]
    finally:
        done.set()
        writer.join()
    assert set(seen) == set(versions)


def test_a_port_that_cannot_be_used(live: LivePage, tmp_path: Path) -> None:
    port = int(live.address.rpartition(":")[2].strip("/"))
    with pytest.raises(BadOption, match="cannot be used: Address already in use") as raised:
        LivePage("white-patch", tmp_path / "report.html", port)
    assert (raised.value.option, raised.value.value) == ("port", port)
    for value in (65_536, -1):
        with raises(BadOption, option="port", value=value):
            LivePage("white-patch", tmp_path / "report.html", value)


def test_the_server_ends_with_the_block(tmp_path: Path) -> None:
    with LivePage("white-patch", tmp_path / "report.html") as page:
        port = int(page.address.rpartition(":")[2].strip("/"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    with LivePage("white-patch", tmp_path / "report.html", port):  # free again
        pass
