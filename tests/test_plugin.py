"""Somebody else's package: its method, refiner and data set run in every command.

The same parts in files of one's own: tests/test_documents.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wordmask
from wordmask.methods import read_method
from wordmask.user_code import source_digest

PACKAGE = Path(__file__).parents[1] / "examples" / "plugin"
TINY = ["--model", "wordmask/tiny-clip"]
SHORT = ["--set", "short_side=none"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder into which pip has put the package; nothing is downloaded."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    target, copy = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("copy") / "plugin"
    shutil.copytree(PACKAGE, copy)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", target, copy], check=True
    )
    return target


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """The parts in files of a folder of one's own, as commands take them."""
    source = PACKAGE / "src" / "wordmask_example"
    names = {"qk_mean": "QkMean", "smooth": "Smooth", "halves": "Halves"}
    for name in names:
        shutil.copy(source / f"{name}.py", tmp_path)
    return {name: f"{name}.py:{part}" for name, part in names.items()}


DRIVER = """
import contextlib, io, json, sys
from wordmask import bars
from wordmask.cli import run
bars.LINE_EVERY = 1e6  # a slow machine says no more than a quick one
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def process(folder: Path, *commands: list[str], path: Path | None = None) -> list[list]:
    """Run commands in a new process in a folder: their codes, stdout and stderr."""
    home = Path(wordmask.__file__).parents[1]
    paths = os.pathsep.join(str(one) for one in (home, path) if one is not None)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def run(folder: Path, *commands: list[str], path: Path | None = None) -> list[str]:
    """What commands that go well print, all run in one new process."""
    results = process(folder, *commands, path=path)
    assert [code for code, _, _ in results] == [0] * len(commands), results
    return [text for _, text, _ in results]


def scene(folder: Path) -> None:
    pixels = np.full((64, 96, 3), (40, 160, 60), np.uint8)
    pixels[:, 48:] = (220, 200, 120)
    Image.fromarray(pixels).save(folder / "scene.png")


def run_everywhere(folder: Path, method: str, refiner: str, data: str, path: Path) -> None:
    """Every command that takes a method, a refiner or a data set."""
    scene(folder)
    words = ["scene.png", "-c", "grass; sand", *TINY, "--method", method]
    refine = ["--refine", f"{refiner}:wide", "--set", "layers=2", "--set", "smooth.reach=2"]
    entries = f"clearclip,{method}:last,{method}+{refiner}"
    few = ["--limit", "2", "--pictures", "0"]
    sizes = ["--size", "48", "--rounds", "1", "--words", "2"]
    shown, refiner_shown, data_shown, checked, protocol, *_, quality, costs = run(
        folder,
        ["methods", method, "--json"],
        ["refiners", refiner, "--json"],
        ["datasets", "show", data, "--json"],
        ["datasets", "check", data],
        ["protocol", method, data],
        ["segment", *words, *refine],
        ["explain", *words],
        ["evaluate", entries, f"{data},toybox", *TINY, *SHORT, *few],
        ["selftest", "--methods", method, "--refiners", refiner, "--scenes", "2", "--json"],
        ["bench", f"{method}:last", *TINY, "--refine", refiner, *sizes, "--json"],
        path=path,
    )
    assert "Mean of q-q" in json.loads(shown)["title"]
    assert json.loads(refiner_shown)["name"] == "smooth"
    assert json.loads(data_shown)["images"] == 2
    assert "no problem" in checked
    assert "qk_mean on halves" in protocol
    provenance = json.loads((folder / "masks" / "scene.json").read_text())["provenance"]
    assert (provenance["method"], provenance["options"]["layers"]) == ("qk_mean", 2)
    assert provenance["refiners"] == [{"name": "smooth", "reach": 2}]
    assert (folder / "explained" / "scene_attention.png").is_file()
    found = json.loads((folder / "evaluation" / "results.json").read_text())
    labels = ["clearclip", "qk_mean:last", "qk_mean+smooth"]
    assert [one["label"] for one in found["runs"]] == labels * 2
    measured = {(row["method"], row["refine"]) for row in json.loads(quality)["rows"]}
    assert measured == {("qk_mean", ""), ("cliper", "smooth")}
    assert "qk_mean" in costs


def test_an_installed_package_is_there_by_name(installed, tmp_path):
    lists = [["methods"], ["refiners"], ["datasets"]]
    listed, *texts = run(tmp_path, ["methods", "--json"], *lists, path=installed)
    origins = {one["name"]: one["from"] for one in json.loads(listed)}
    assert origins.pop("qk_mean") == "wordmask-example 0.1.0"
    assert set(origins.values()) == {"wordmask"}
    without = run(tmp_path, *lists)
    for name, text, other in zip(("qk_mean", "smooth", "halves"), texts, without, strict=True):
        assert name in text
        assert "from wordmask-example 0.1.0" in text
        assert name not in other
    run_everywhere(tmp_path, "qk_mean", "smooth", "halves", installed)


def test_edited_code_never_answers_with_old_numbers(files, tmp_path):
    few = ["--limit", "2", "--pictures", "0"]
    evaluate = ["evaluate", files["qk_mean"], "toybox", *TINY, *SHORT, *few]
    results, method = tmp_path / "evaluation" / "results.json", tmp_path / "qk_mean.py"

    def number() -> float:
        return json.loads(results.read_text())["runs"][0]["miou"]

    run(tmp_path, evaluate)
    first = number()
    run(tmp_path, evaluate)
    assert number() == first
    method.write_text(method.read_text().replace(").mean(0)", ").mean(0).roll(9, -1)"))
    (code, _, err), (again, _, _) = process(tmp_path, evaluate, [*evaluate, "--overwrite"])
    assert (code, again) == (2, 0)
    assert len(err.strip().splitlines()) == 1
    assert "code of the method qk_mean" in err
    assert number() != first


def test_edited_code_never_leaves_old_masks(files, tmp_path):
    scene(tmp_path)
    segment = ["segment", "scene.png", "-c", "grass; sand", *TINY, "--method", files["qk_mean"]]
    _, again = run(tmp_path, segment, segment)
    assert "1 skipped" in again
    with (tmp_path / "qk_mean.py").open("a") as file:
        file.write("\nEDITED = True\n")
    ((code, _, err),) = process(tmp_path, segment)
    assert code == 2
    assert "code of the method qk_mean" in err


def test_the_example_is_what_its_files_say(tmp_path, files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    method, variant = read_method(f"{files['qk_mean']}:last")
    assert (method.layers, variant) == (1, "last")
    assert source_digest(method) is not None
    with pytest.raises(wordmask.WordmaskError, match="layers=0"):
        read_method(files["qk_mean"], None, {"layers": 0})
