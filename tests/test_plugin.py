"""Somebody else's package: its method, refiner and data set run in every command."""

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
from wordmask.registry import source_digest

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


def command(folder: Path, *arguments: str, path: Path | None = None) -> str:
    """Run a command in a process in a folder, and return what it printed."""
    home = Path(wordmask.__file__).parents[1]
    paths = os.pathsep.join(str(one) for one in (home, path) if one is not None)
    done = subprocess.run(
        [sys.executable, "-m", "wordmask", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def scene(folder: Path) -> None:
    pixels = np.full((64, 96, 3), (40, 160, 60), np.uint8)
    pixels[:, 48:] = (220, 200, 120)
    Image.fromarray(pixels).save(folder / "scene.png")


def run_everywhere(folder: Path, method: str, refiner: str, data: str, path: Path | None) -> None:
    """Every command that takes a method, a refiner or a data set."""
    scene(folder)

    def run(*arguments: str) -> str:
        return command(folder, *arguments, path=path)

    assert "Mean of q-q" in json.loads(run("methods", method, "--json"))["title"]
    assert json.loads(run("refiners", refiner, "--json"))["name"] == "smooth"
    assert json.loads(run("datasets", "show", data, "--json"))["images"] == 2
    assert "no problem" in run("datasets", "check", data)
    assert "halves" in run("protocol", method, data)
    words = ["-c", "grass; sand", *TINY, "--method", method]
    run("segment", "scene.png", *words, "--set", "layers=2", "--refine", f"{refiner}:wide",
        "--set", "smooth.reach=2")  # fmt: skip
    provenance = json.loads((folder / "masks" / "scene.json").read_text())["provenance"]
    assert (provenance["method"], provenance["options"]["layers"]) == ("qk_mean", 2)
    assert provenance["refiners"] == [{"name": "smooth", "reach": 2}]
    run("explain", "scene.png", *words)
    assert (folder / "explained" / "scene_attention.png").is_file()
    entries = f"clearclip,{method}:last,{method}+{refiner}"
    run("evaluate", entries, f"{data},toybox", *TINY, *SHORT, "--limit", "2", "--pictures", "0")
    found = json.loads((folder / "evaluation" / "results.json").read_text())
    assert [run["label"] for run in found["runs"]] == 2 * [
        "clearclip",
        "qk_mean:last",
        "qk_mean+smooth",
    ]
    rows = json.loads(
        run("selftest", "--methods", method, "--refiners", refiner, "--scenes", "2", "--json")
    )["rows"]
    assert {(row["method"], row["refine"]) for row in rows} == {
        ("qk_mean", ""),
        ("cliper", "smooth"),
    }
    sizes = ["--size", "48", "--rounds", "1", "--words", "2", "--json"]
    costs = json.loads(run("bench", f"{method}:last", *TINY, "--refine", refiner, *sizes))
    assert "qk_mean" in json.dumps(costs)


def test_an_installed_package_is_there_by_name(installed, tmp_path):
    listed = json.loads(command(tmp_path, "methods", "--json", path=installed))
    (ours,) = [one for one in listed if one["name"] == "qk_mean"]
    assert ours["from"] == "wordmask-example 0.1.0"
    assert {one["from"] for one in listed if one is not ours} == {"wordmask"}
    for kind, name in (("methods", "qk_mean"), ("refiners", "smooth"), ("datasets", "halves")):
        text = command(tmp_path, kind, path=installed)
        assert name in text
        assert "from wordmask-example 0.1.0" in text
        assert name not in command(tmp_path, kind)
    run_everywhere(tmp_path, "qk_mean", "smooth", "halves", installed)


def test_files_need_no_installation(files, tmp_path):
    run_everywhere(tmp_path, files["qk_mean"], files["smooth"], files["halves"], None)


def test_the_method_is_short():
    text = (PACKAGE / "src" / "wordmask_example" / "qk_mean.py").read_text()
    assert len(text.splitlines()) <= 60


def test_edited_code_never_answers_with_old_numbers(files, tmp_path):
    arguments = [files["qk_mean"], "toybox", *TINY, *SHORT, "--limit", "2", "--pictures", "0"]

    def numbers() -> float:
        return json.loads((tmp_path / "evaluation" / "results.json").read_text())["runs"][0]["miou"]

    command(tmp_path, "evaluate", *arguments)
    first = numbers()
    command(tmp_path, "evaluate", *arguments)
    assert numbers() == first
    path = tmp_path / "qk_mean.py"
    path.write_text(path.read_text().replace(").mean(0)", ").mean(0).roll(9, -1)"))
    refused = subprocess.run(
        [sys.executable, "-m", "wordmask", "evaluate", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(wordmask.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert refused.returncode == 2, refused.stdout
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "qk_mean" in refused.stderr
    command(tmp_path, "evaluate", *arguments, "--overwrite")
    assert numbers() != first


def test_edited_code_never_leaves_old_masks(files, tmp_path):
    scene(tmp_path)
    arguments = ["segment", "scene.png", "-c", "grass; sand", *TINY, "--method", files["qk_mean"]]
    command(tmp_path, *arguments)
    assert "1 skipped" in command(tmp_path, *arguments)
    with (tmp_path / "qk_mean.py").open("a") as file:
        file.write("\nEDITED = True\n")
    assert "1 picture segmented" in command(tmp_path, *arguments, "--overwrite")
    with (tmp_path / "qk_mean.py").open("a") as file:
        file.write("\nEDITED = False\n")
    with pytest.raises(AssertionError, match="code of qk_mean"):
        command(tmp_path, *arguments)


def test_the_example_is_what_its_files_say(tmp_path, files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    method, variant = read_method(f"{files['qk_mean']}:last")
    assert (method.layers, variant) == (1, "last")
    assert source_digest(method) is not None
    with pytest.raises(wordmask.WordmaskError, match="layers=0"):
        read_method(files["qk_mean"], None, {"layers": 0})
