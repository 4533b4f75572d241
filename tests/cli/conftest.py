from __future__ import annotations

import pytest

from tiny import save_tiny_clip


@pytest.fixture(scope="package")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_clip(folder, layers=2, text_layers=1)
    return str(folder)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, on a terminal of 100 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("WORDMASK_MODEL", raising=False)
