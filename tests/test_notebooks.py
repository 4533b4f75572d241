"""The notebooks of the documents run from top to bottom, offline, and are stored empty."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import wordmask

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def test_there_are_two():
    assert NOTEBOOKS == ["compare-and-add-a-method.ipynb", "first-steps.ipynb"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    paths = [str(Path(wordmask.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells), "store it without"
    where = {"metadata": {"path": str(tmp_path)}}
    patience = {"timeout": 400, "startup_timeout": 400}
    nbclient.NotebookClient(notebook, kernel_name="python3", resources=where, **patience).execute()
    assert sum("image/png" in out.get("data", {}) for c in cells for out in c.outputs) >= 2
    errors = [out.text for c in cells for out in c.outputs if out.get("name") == "stderr"]
    expected = r"IProgress|tiny-clip knows rendered scenes only"  # tqdm asks for widgets; the note
    assert not [text for text in errors if not re.search(expected, text)]
