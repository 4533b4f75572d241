"""`wordmask serve` as a process, with workers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import MODEL, WORDS, picture

from waiting import LONG, free_port, soon
from wordmask.cli import run
from wordmask.client import Client

psutil = pytest.importorskip("psutil", reason="psutil is not installed")


@dataclass
class Process:
    """The command, its client and its log."""

    process: subprocess.Popen[bytes]
    url: str
    client: Client
    log: Path

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line[:1] == "{"]

    def family(self) -> list:
        return psutil.Process(self.process.pid).children(recursive=True)

    def worker(self) -> Any:
        """The process that holds the networks."""
        return max(self.family(), key=lambda one: one.memory_full_info().uss)

    def active(self) -> int:
        """Requests that were taken and not answered."""
        text = httpx.get(f"{self.url}/metrics", timeout=LONG).text
        return int(float(re.search(r"^wordmask_requests_active (\S+)$", text, re.M)[1]))


@pytest.fixture
def start(tmp_path) -> Iterator:
    """Starts the command on a free port and waits until it is ready."""
    running: list[Process] = []

    def started(*arguments: str) -> Process:
        port = free_port()
        log = tmp_path / "log.jsonl"
        command = ["serve", "--model", MODEL, "--method", "naclip", "--offline", *arguments]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "wordmask", *command, "--port", str(port)],
                stderr=file,
                env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
            )
        url = f"http://127.0.0.1:{port}"
        one = Process(process, url, Client(url, timeout=2 * LONG, tries=1), log)
        running.append(one)
        soon(lambda: one.client.ready() or process.poll() is not None, why=log.read_text)
        assert process.poll() is None, log.read_text()
        return one

    yield started
    for one in running:
        family = one.family() if one.process.poll() is None else []
        one.process.kill()
        for child in family:
            child.kill()


def ask_all(client, seeds, answers):
    """One request for each seed at the same time; answers by seed, or the errors."""

    def ask(seed):
        try:
            answers[seed] = client.segment(picture(seed), WORDS, "none").labels
        except Exception as error:
            answers[seed] = error

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in seeds]
    for one in threads:
        one.start()
    return threads


def test_workers(start, offline, tmp_path):
    """Answers are the library's; a killed worker comes back; SIGTERM loses nothing."""
    served = start("--workers", "1", "--batch", "4", "--max-seconds", str(int(LONG)))
    client, answers = served.client, {}
    for one in ask_all(client, range(8), answers):
        one.join()
    encoded = client.encode(picture(3))
    worker = served.worker()
    worker.suspend()  # so that the requests are on their way
    threads = ask_all(client, range(8, 12), answers)
    soon(lambda: served.active() == 4)
    worker.kill()
    for one in threads:
        one.join()
    assert client.score(encoded, WORDS, "none").labels.shape == (48, 64)  # kept all the same
    family, worker = served.family(), served.worker()
    worker.suspend()
    threads = ask_all(client, range(12, 24), answers)
    soon(lambda: served.active() == 12)
    served.process.send_signal(signal.SIGTERM)
    worker.resume()
    for one in threads:
        one.join()
    assert served.process.wait(LONG) == 0
    assert not psutil.wait_procs(family, timeout=LONG)[1]

    for seed, labels in sorted(answers.items()):
        want = offline(picture(seed), WORDS, "none").labels
        assert not isinstance(labels, Exception), (seed, labels, served.log.read_text())
        assert (labels == want).all(), seed
    assert len(answers) == 24
    told = [one for one in served.lines() if one.get("path") == "/v1/segment"]
    assert [one["status"] for one in told] == [200] * 24
    assert len({one["request_id"] for one in told}) == 24
    assert not list(tmp_path.glob("wordmask-serve-*"))  # its encodings are gone
    for line in served.log.read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "other"], "unknown engine 'other'"),
        (["--address", "127.0.0.1:1"], "add --engine ray"),
        (["--batch", "0"], "got --batch 0; give 1 or more"),
        (["--port", "80"], "got --port 80; give one of 1024 to 65535"),
        (["--method", "nothing"], "unknown method 'nothing'"),
        (["--host", "192.0.2.1"], "cannot serve at 192.0.2.1:8000"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(arguments, message, capsys):
    assert run(["serve", "--model", MODEL, *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("wordmask: error: ")
    assert err.count("\n") == 1


def test_a_network_that_no_worker_can_load_is_told_in_one_line(tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "wordmask", "serve", "--model", str(tmp_path / "none")]
    done = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True)
    *log, last = done.stderr.splitlines()
    assert done.returncode == 2
    assert last.startswith("wordmask: error: got ")
    for line in log:
        assert json.loads(line)["level"] == "info"


def test_batches_of_one_write_no_warning_into_the_log(engine):
    from wordmask.serve.on_litserve import Networks

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Networks(engine.recipe, 1, 0.0).max_batch_size == 1


def test_an_address_in_use(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["serve", "--model", MODEL, "--port", str(port)]) == 2
    assert "Address already in use" in capsys.readouterr().err


def test_an_address_of_ipv6(capsys):
    try:
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with taken:
        port = taken.getsockname()[1]
        assert run(["serve", "--model", MODEL, "--host", "::1", "--port", str(port)]) == 2
    assert "Address already in use" in capsys.readouterr().err


def test_a_missing_part_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert run(["serve", "--model", MODEL]) == 2
    assert 'pip install "wordmask[serve]"' in capsys.readouterr().err
