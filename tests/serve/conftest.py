"""The service in this process, with the built-in network, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the service is not installed (extra serve)")
pytest.importorskip("httpx", reason="the client is not installed (extra client)")

from serving import MODEL, Served

from wordmask import Segmenter
from wordmask.serve.engine import Engine, Recipe


@pytest.fixture(scope="session")
def engine(tmp_path_factory) -> Engine:
    """The networks, loaded once for all tests."""
    store = tmp_path_factory.mktemp("encodings")
    return Recipe(MODEL, method="naclip", offline=True, store=str(store)).load()


@pytest.fixture
def make(engine, tmp_path):
    """Makes an engine of other settings on the same networks."""

    def made(**changes: Any) -> Engine:
        recipe = replace(engine.recipe, store=str(tmp_path / "store"), **changes)
        other = Engine.__new__(Engine)
        other.__dict__ = {**vars(engine), "recipe": recipe, "store": recipe.make_store()}
        return other

    return made


@pytest.fixture(scope="session")
def offline() -> Segmenter:
    """The same without the service."""
    segmenter = Segmenter.from_pretrained(MODEL, "naclip", local_files_only=True)
    segmenter.note = ""
    return segmenter


@pytest.fixture
def serve(engine) -> Iterator[Any]:
    """Serves an application with these limits and settings; returns a `Served`."""
    from wordmask.serve.app import create_app
    from wordmask.serve.service import Here

    running: list[Served] = []

    def start(backend: Any = None, made: Engine | None = None, **settings: Any) -> Served:
        one = made or engine
        app = create_app(backend or Here(one), one.recipe, **settings)
        running.append(Served(app))
        return running[-1]

    yield start
    for one in running:
        one.stop()
