"""A small model hub on loopback, which can also stall, cut, refuse, gate and strip; and a socket
that accepts connections and never answers.

It speaks as much of the hub's protocol as huggingface_hub uses to list and download files.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Faults:
    """What goes wrong.

    Attributes:
        status: the hub answers every request with this error.
        file_status: requests for files are answered with this error.
        stall: requests for files are answered after this many seconds.
        slow: seconds between pieces of 64 KiB of a file.
        cut_after: a file's connection ends after this many bytes, as often as `cuts` says.
        cuts: see `cut_after`.
        gated, private: repositories that are.
        headers: False leaves out the headers that only a hub sends.
        page: this text in place of every answer, as a log-in page of a network.
    """

    status: int = 0
    file_status: int = 0
    stall: float = 0
    slow: float = 0
    cut_after: int = 0
    cuts: int = 0
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    headers: bool = True
    page: str = ""


class Hub:
    """Folders served as repositories, as a context.

    Args:
        repositories: by `owner/name`, a folder, or folders by revision.

    Attributes:
        faults: may be changed at any time.
        requests: "GET /path" of all requests so far.
        sent: bytes of files that were sent, by name in the repository.
    """

    def __init__(self, repositories: Mapping[str, Path | Mapping[str, Path]] | None = None):
        self.repositories = {
            name: dict(found) if isinstance(found, Mapping) else {"main": found}
            for name, found in (repositories or {}).items()
        }
        self.faults = Faults()
        self.requests: list[str] = []
        self.sent: dict[str, int] = {}

    def __enter__(self) -> Hub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def use(self, monkeypatch: Any) -> None:
        """Make this the hub of the present process."""
        from huggingface_hub import constants

        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    @staticmethod
    def commit(name: str, revision: str) -> str:
        """The commit that a revision of a repository stands for."""
        return hashlib.sha1(f"{name} {revision}".encode()).hexdigest()


def environment(url: str, home: Path, **more: str) -> dict[str, str]:
    """The environment of a process whose hub is at `url`, with a cache of its own below `home`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    own = {"HF_ENDPOINT": url, "HF_HOME": str(home), "WORDMASK_CACHE": str(home / "text")}
    return kept | own | {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"} | more


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self._answer(body=True)

    def _answer(self, body: bool) -> None:
        faults = self.hub.faults
        self.hub.requests.append(f"{self.command} {self.path}")
        path = unquote(urlsplit(self.path).path)
        if faults.status:
            return self._send(faults.status, b"", body)
        if faults.page:
            return self._send(200, faults.page.encode(), body, {"Content-Type": "text/html"})
        if path.startswith("/api/models/"):
            return self._describe(path.removeprefix("/api/models/"), body)
        name, mark, rest = path[1:].partition("/resolve/")
        if not mark:
            return self._send(404, b"", body)
        folder, revision = self._find(name, rest.partition("/")[0], body)
        if folder is not None:
            self._file(name, revision, folder, rest.partition("/")[2], body)
        return None

    def _find(self, name: str, revision: str, body: bool) -> tuple[Path | None, str]:
        """The folder of a revision, and its name; None once an error has been sent."""
        folders = self.hub.repositories.get(name)
        if folders is None or name in self.hub.faults.private:
            self._send(404, b"", body, {"X-Error-Code": "RepoNotFound"})
            return None, ""
        for one, folder in folders.items():
            if revision in (one, Hub.commit(name, one)):
                return folder, one
        self._send(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
        return None, ""

    def _describe(self, path: str, body: bool) -> None:
        """What a repository has: the answers of `model_info` and `list_repo_tree`."""
        parts = path.split("/")
        name, kind = "/".join(parts[:2]), parts[2] if len(parts) > 2 else ""
        folder, revision = self._find(name, "/".join(parts[3:]) or "main", body)
        if folder is None:
            return None
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        listed = [(p.relative_to(folder).as_posix(), p.stat().st_size) for p in files]
        answer: Any = {
            "id": name,
            "sha": Hub.commit(name, revision),
            "gated": "manual" if name in self.hub.faults.gated else False,
            "siblings": [{"rfilename": file, "size": size} for file, size in listed],
        }
        if kind == "tree":
            answer = [
                {"type": "file", "path": file, "size": size, "oid": _digest(folder / file)}
                for file, size in listed
            ]
        more = {"Content-Type": "application/json"}
        return self._send(200, json.dumps(answer).encode(), body, more)

    def _file(self, name: str, revision: str, folder: Path, file: str, body: bool) -> None:
        faults = self.hub.faults
        if name in faults.gated:
            return self._send(403, b"", body, {"X-Error-Code": "GatedRepo"})
        if faults.file_status:
            return self._send(faults.file_status, b"", body)
        own = {"X-Repo-Commit": Hub.commit(name, revision)} if faults.headers else {}
        if not (folder / file).is_file():
            return self._send(404, b"", body, own | {"X-Error-Code": "EntryNotFound"})
        time.sleep(faults.stall)
        data = (folder / file).read_bytes()
        own |= {"ETag": f'"{_digest(folder / file)}"'} if faults.headers else {}
        asked = self.headers.get("Range", "")
        if not asked:
            return self._send(200, data, body, own, file)
        start = int(asked.removeprefix("bytes=").partition("-")[0])
        own["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self._send(206, data[start:], body, own, file)

    def _send(
        self,
        status: int,
        data: bytes,
        body: bool,
        more: Mapping[str, str] | None = None,
        file: str = "",
    ) -> None:
        faults = self.hub.faults
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(more or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if not body:
            return
        cut = file and faults.cuts and 0 < faults.cut_after < len(data)
        if cut:
            faults.cuts -= 1
            data = data[: faults.cut_after]
        for start in range(0, len(data), 65536):
            piece = data[start : start + 65536]
            if file:  # before it is read at the other end
                self.hub.sent[file] = self.hub.sent.get(file, 0) + len(piece)
                time.sleep(faults.slow)
            self.wfile.write(piece)
            self.wfile.flush()
        if cut:
            self.close_connection = True


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Swallow:
    """A socket that accepts every connection, reads and never answers, as a context.

    Attributes:
        url: of it.
        connections: number of connections so far.
    """

    def __enter__(self) -> Swallow:
        self.connections = 0
        self._kept: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                self._kept.append(connection)

    def __exit__(self, *_: object) -> None:
        for one in (self._socket, *self._kept):
            one.close()
