"""The live page of a command: its progress and its report so far, from a server on this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any, Self

from saccade.errors import bad_option
from saccade.viz.html import render_page

HOST = "127.0.0.1"
_OWN_NAMES = (HOST, "localhost")
_INTERVAL, _HEARTBEAT, _FAREWELL = 0.25, 10.0, 3.0  # seconds


class LivePage:
    """Serves a page that shows a state and a report, on 127.0.0.1 alone.

    The page receives every state, and loads the report again when the number of the report changes. Both
    are served whole: states are kept in memory, and the report is a file that is replaced by a rename.
    Before the first report, the page shows a table, if the state has one.

    Args:
        title: Title of the page.
        report: The report. It is served once `update` has been called with a number other than 0.
        port: Port; 0 for a free one.

    Raises:
        BadOption: The port is out of range, in use, or reserved by the system.
    """

    def __init__(self, title: str, report: Path, port: int = 0) -> None:
        if not 0 <= port <= 65_535:
            raise bad_option("live page", "must be between 0 and 65535", port=port)
        self.report = report
        self.page = render_page("live", data={}, title=title).encode("utf-8", "replace")
        self.state: Mapping[str, Any] = {"state": "running", "text": "", "fraction": 0.0, "report": 0}
        self.changed = threading.Condition()
        self.version = 0
        self.viewers = 0
        self.delivered = threading.Event()  # the final report has been sent
        try:
            self._server = _Server(self, port)
        except OSError as error:
            raise bad_option("live page", f"cannot be used: {error.strerror}", port=port) from error
        self.address = f"http://{HOST}:{self._server.server_address[1]}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        if any(raised):
            self.update(state="stopped", text="")
            with self.changed:  # the threads of the viewers send it
                self.changed.wait_for(lambda: not self.viewers, _FAREWELL)
        self._server.shutdown()
        self._server.server_close()

    def update(self, **state: Any) -> None:
        """Change entries of the state.

        Args:
            **state: `state`, `text`, `fraction` from 0 to 1, the number of the `report`, the rows of the
                `table`, titles first, and others, which the page ignores.
        """
        with self.changed:
            self.state = {**self.state, **state}
            self.version += 1
            self.changed.notify_all()

    def finish(self, **state: Any) -> None:
        """Send the last state, and wait until an open page has loaded the last report."""
        self.update(state="finished", fraction=1.0, **state)
        if self.viewers:
            self.delivered.wait(_FAREWELL)

    def next_state(self, seen: int) -> tuple[int, Mapping[str, Any]]:
        """Wait for a state that is newer than `seen`; return the last one after a while."""
        with self.changed:
            self.changed.wait_for(lambda: self.version != seen, _HEARTBEAT)
            return self.version, self.state


class _Server(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True  # a port is free again right after a command has ended

    def __init__(self, page: LivePage, port: int) -> None:
        self.page = page
        super().__init__((HOST, port), _Handler)

    def handle_error(self, *_: Any) -> None:
        """Say nothing: browsers close connections at any time."""


class _Handler(BaseHTTPRequestHandler):
    timeout = 30
    server: _Server

    def do_GET(self) -> None:
        page, path = self.server.page, self.path.partition("?")[0]
        host = self.headers.get("Host", HOST).rpartition(":")
        if (host[0] or host[2]) not in _OWN_NAMES:  # a name of another site that resolves to this machine
            self.send_error(403)
        elif path == "/":
            self._send(page.page)
        elif path == "/report.html" and page.state["report"]:
            is_last = page.state["state"] == "finished"
            self._send(page.report.read_bytes())
            if is_last:
                page.delivered.set()
        elif path == "/events":
            self._send_states(page)
        else:
            self.send_error(404)

    def _head(self, kind: str, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def _send(self, body: bytes) -> None:
        self._head("text/html; charset=utf-8", len(body))
        self.wfile.write(body)

    def _send_states(self, page: LivePage) -> None:
        """Send states as server-sent events until the command or the viewer leaves."""
        self._head("text/event-stream")
        with page.changed:
            page.viewers += 1
        try:
            seen = -1
            while True:
                seen, state = page.next_state(seen)
                self.wfile.write(f"data: {json.dumps(state)}\n\n".encode())
                if state["state"] != "running":
                    return
                time.sleep(_INTERVAL)
        finally:
            with page.changed:
                page.viewers -= 1
                page.changed.notify_all()

    def log_message(self, *_: Any) -> None:
        """Say nothing: the terminal shows the progress."""

    def version_string(self) -> str:
        return "saccade"
