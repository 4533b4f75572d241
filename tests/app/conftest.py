"""A browser and a server for tests of the page."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from waiting import LONG, free_port, soon

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
SERVE = """  # the command, whose log has a line for each pass of the image encoder
from wordmask.cli import main
from wordmask.segmenter import Segmenter

encode = Segmenter.encode
def watched(*given, **named):
    print("a pass", flush=True)
    return encode(*given, **named)
Segmenter.encode = watched
main()
"""
QUIET = (  # Chromium itself asks nothing of the network
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@dataclass
class Server:
    """A page that is served by a process of its own."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def passes(self) -> int:
        """How often a picture was encoded so far."""
        return self.log.read_text().count("a pass")


def serve(folder: Path, *arguments: str, **variables: str) -> Server:
    """Start `wordmask app` on a free port, and wait until it answers.

    variables: of the environment.
    """
    port = free_port()
    log = folder / "log.txt"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORDMASK_CACHE": str(folder / "cache")}
    environment |= variables
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "app", "--port", str(port), *arguments],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )
    url = f"http://127.0.0.1:{port}/"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=LONG):
                return True
        except OSError:
            return False

    soon(answers, why=log.read_text)
    return Server(process, url, log)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """The page with the built-in network."""
    pytest.importorskip("gradio", reason="the page is not installed (extra app)")
    folder = tmp_path_factory.mktemp("server")
    one = serve(folder, "--model", "wordmask/tiny-clip", "--offline")
    yield one
    one.process.terminate()
    one.process.wait(LONG)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests of a file; each test opens contexts of its own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with playwright.sync_playwright() as one:
        started = one.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.fixture
def visit(server, browser) -> Iterator[Any]:
    """Opens the page as a new visitor; errors in the browser and requests elsewhere fail."""
    contexts, bad = [], []

    def open_page(width: int = 1280, height: int = 900) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * LONG)
        page.on("pageerror", lambda error: bad.append(str(error)))
        page.on("request", lambda one: bad.append(one.url) if elsewhere(one.url) else None)
        page.goto(server.url)
        page.wait_for_selector("#wm-run")
        return page

    def elsewhere(url: str) -> bool:
        return not url.startswith((server.url, "data:", "blob:"))

    yield open_page
    for context in contexts:
        context.close()
    assert not bad
