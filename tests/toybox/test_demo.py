"""The demo: the command as a process without a network, and that what it says is so."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wordmask
from wordmask import drawing, toybox
from wordmask.cli import run
from wordmask.methods import METHODS
from wordmask.toybox import demo
from wordmask.toybox.selftest import candidates

PACKAGE = Path(wordmask.__file__).parent
WEIGHTS = PACKAGE / "networks" / "tiny-clip" / "model.safetensors"
needs_weights = pytest.mark.skipif(
    not WEIGHTS.is_file(), reason="the weights of wordmask/tiny-clip are not in this checkout"
)
NO_NETWORK = """
import socket

def refuse(*arguments, **names):
    open({path!r}, "a").write(f"{{arguments}}\\n")
    raise OSError("no network in this test")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.create_connection = socket.getaddrinfo = refuse
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[str, Path]:
    """What the command printed, and where it wrote; every attempt to connect fails the test."""
    folder = tmp_path_factory.mktemp("demo")
    connections = folder / "connections.txt"
    (folder / "sitecustomize.py").write_text(NO_NETWORK.format(path=str(connections)))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "WORDMASK_"))}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(folder), str(PACKAGE.parent)]),
        "WORDMASK_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hub"),
        "COLUMNS": "100",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "wordmask", "demo"],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()  # a slow machine says every 20 seconds how far it is
    assert all(line.startswith("wordmask: segmenting the demo scene") for line in told)
    assert not connections.exists(), connections.read_text()
    return done.stdout, folder / "wordmask-demo"


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> demo.Demo:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORDMASK_CACHE", str(tmp_path_factory.mktemp("cache")))
        return demo.run_demo()


@needs_weights
def test_the_command_writes_what_the_library_finds(ran, result):
    _, out = ran
    assert sorted(path.name for path in out.iterdir()) == [
        "labels.png", "methods.png", "overlay.png", "scene.png",
    ]  # fmt: skip
    assert np.array_equal(np.asarray(Image.open(out / "scene.png")), result.image)
    assert np.array_equal(np.asarray(Image.open(out / "labels.png")), result.chosen.labels)
    with Image.open(out / "overlay.png") as overlay:
        assert overlay.width >= demo.SIZE
        assert overlay.height > demo.SIZE  # a legend below
    with Image.open(out / "methods.png") as strip:
        rows = -(-(len(result.results) + 2) // 4)
        assert strip.width > 4 * demo.SIZE
        assert strip.height > rows * demo.SIZE


@needs_weights
def test_the_tables_name_what_is_there_and_every_method(ran, result):
    text, _ = ran
    lines = text.splitlines()
    for word in np.array(result.words)[np.unique(result.target) - 1]:
        assert any(line.startswith(f" {word} ") for line in lines), word
    for method, quality in result.quality.items():
        (line,) = [line for line in lines if line.startswith(f" {method}  ")]
        assert line.removeprefix(f" {method}").split()[0] == f"{100 * quality.mean_iou:.1f}"
    assert lines[-1].endswith(
        'wordmask segment photo.jpg --classes "cat; sofa" --model openai/clip-vit-base-patch16'
    )


@needs_weights
def test_the_methods_have_one_legend_of_all_their_colours(result, monkeypatch):
    legends = []
    draw = drawing.legend

    def recorded(entries, width, *more):
        legends.append((entries, draw(entries, width, *more)))
        return legends[-1][1]

    monkeypatch.setattr(drawing, "legend", recorded)
    page = np.asarray(result.strip())
    ((entries, legend),) = legends
    np.testing.assert_array_equal(page[-legend.height :], np.asarray(legend))
    found = {i for one in result.results.values() for i in np.unique(one.labels).tolist()}
    found |= set(np.unique(result.target).tolist()) - {0}
    colours = drawing.palette(len(result.words)).tolist()
    assert entries == [(result.words[i - 1], tuple(colours[i])) for i in sorted(found)]


@needs_weights
def test_the_demo_is_right(result):
    """All that is there is found and nothing else; nothing worth a look is missed."""
    found = result.found()
    assert {word for word, share, _, _ in found if share} == {w for w, _, true, _ in found if true}
    assert min(iou for _, _, _, iou in found) >= 0.75
    assert result.name == demo.COMPLETE
    assert result.quality[result.name].pixels >= 0.95
    assert result.quality[result.name].mean_iou > result.quality["clip"].mean_iou + 0.7
    assert set(result.results) == {one.label for one in candidates()}


def test_the_scene_is_one_of_many_words_and_known_labels():
    scene = toybox.render(demo.SEED, demo.SIZE, things=(4, 5))
    words = toybox.choices(scene, demo.WORDS)
    assert len(words) >= 16
    assert len(scene.things) >= 3
    assert toybox.label_map(scene, words).min() >= 1


@needs_weights
def test_what_is_not_installed_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORDMASK_CACHE", str(tmp_path))
    few = {name: METHODS._known[name] for name in ("clip", "clearclip", demo.METHOD)}
    monkeypatch.setattr(METHODS, "_known", few)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "diffusers" else find(name)
    )
    assert run(["demo", "--out", str(tmp_path / "here")]) == 0
    text = capsys.readouterr().out
    assert "Left out: diffusion, " in text
    assert f"What {demo.METHOD} found" in text


def test_a_file_in_the_way_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").write_text("")
    assert run(["demo", "--out", str(tmp_path / "here")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "give a folder" in err


@needs_weights
@pytest.mark.parametrize("short_side", [[], ["--short-side", "none"]])
def test_segment_gives_what_the_demo_shows(ran, result, short_side, tmp_path, monkeypatch, capsys):
    """Every method and refiner with the built-in networks, without an option for them."""
    monkeypatch.setenv("WORDMASK_CACHE", str(tmp_path / "cache"))
    _, out = ran
    given = ["segment", str(out / "scene.png"), "-c", "; ".join(result.words), "-b", "none"]
    given += ["--model", demo.MODEL, "-f", "labels", *short_side]
    chosen = [demo.METHOD, "clearclip"] if short_side else result.results
    for label in chosen:
        method, _, refine = label.partition(" + ")
        more = ["--refine", refine] if refine else []
        if refine == "diffusion":  # its input has a size of its own, whatever CLIP's
            more += ["--set", f"diffusion.side={demo.SIZE}"]
        where = tmp_path / label.replace(" ", "").replace(":", "-")
        assert run([*given, "--method", method, *more, "--out", str(where)]) == 0
        labels = np.asarray(Image.open(where / "scene_labels.png"))
        assert np.array_equal(labels, result.results[label].labels), label
        told = [line for line in capsys.readouterr().err.splitlines() if "rendered scenes" in line]
        assert len(told) == 1
        assert "openai/clip-vit-base-patch16" in told[0]
