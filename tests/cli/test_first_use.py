"""What a first-time user types: words, flags, Tab, `--quiet`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from commands import FAST, picture, process
from wordmask import list_methods, list_refiners
from wordmask.cli import app, complete, run
from wordmask.datasets import BENCHMARKS
from wordmask.methods import METHODS
from wordmask.refiners import REFINERS
from wordmask.towers.auxiliary import KINDS

# -- words --------------------------------------------------------------------------------------

TWO = 'one class, cat, with the synonym dog; for two classes write "cat; dog"'


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-c", "cat", "-c", "sofa, couch; dog"], ["3 classes: cat; sofa (couch); dog"]),
        (["-c", "cat,dog"], ["1 class: cat (dog)", TWO]),
        (["-c", "cat,dog;"], ["1 class: cat (dog)"]),
        (
            ["-c", "a, b,c"],
            ["1 class: a (b, c)",
             'one class, a, with the synonyms b, c; for 3 classes write "a; b; c"'],
        ),
        (
            ["-c", "cat", "-b", "names:sky,wall"],
            ["1 class: cat", 'one background word, "sky,wall"; for several write "sky;wall"'],
        ),
        (["-c", ";".join("abcdefghijklmno")], ["15 classes: a; b; c; d; e; f; g; h; i; j; k; l; "
                                               "and 3 more"]),
    ],
)  # fmt: skip
def test_the_classes_that_were_understood_are_said(model, capsys, words, said):
    picture("p.png")
    assert run(["segment", "p.png", "--model", model, *FAST, *words]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:-1] == [f"wordmask: {line}" for line in said]


@pytest.mark.parametrize(
    "arguments", [["explain", "--show", "classes", "--method", "clip"],
                  ["compare", "--methods", "clip"]]
)  # fmt: skip
def test_every_command_that_takes_words_says_them(model, capsys, arguments):
    picture("p.png")
    assert run([*arguments, "p.png", "-c", "cat,dog", "-c", "sky", "--model", model]) == 0
    err = capsys.readouterr().err
    assert f"wordmask: 2 classes: cat (dog); sky\nwordmask: {TWO}\n" in err


@pytest.mark.parametrize("command", ["segment", "large", "explain", "compare"])
def test_words_are_said_before_networks_are_loaded(model, capsys, command):
    """Before a download of minutes; and by a second run too, which loads nothing."""
    if command == "large":
        pytest.importorskip("rasterio")
    picture("p.png")
    given = [command, "p.png", "-c", "cat,dog", "-b", "none"]
    assert run([*given, "--model", "./none"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["wordmask: 1 class: cat (dog)", f"wordmask: {TWO}"]
    assert lines[-1].startswith("wordmask: error: got './none'")
    if command == "segment":
        for _ in range(2):
            assert run([*given, *FAST, "--model", model]) == 0
        assert f"wordmask: {TWO}\n" in capsys.readouterr().err


def test_labels_of_repeated_classes(model):
    """Both are classes of the result, in their order."""
    picture("p.png")
    words = ["-c", "cat", "-c", "dog"]
    assert run(["segment", "p.png", *words, "--model", model, *FAST, "-f", "scores"]) == 0
    import numpy as np

    assert np.load("masks/p_scores.npz")["names"].tolist() == ["cat", "dog"]


# -- quiet --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["segment", "explain", "compare"])
def test_quiet_leaves_results_and_errors(model, capsys, monkeypatch, command):
    monkeypatch.setattr("wordmask.bars.LINE_EVERY", 0.0)
    picture("p.png")
    quiet = [command, "p.png", "-c", "cat,dog", "--model", model, "--quiet"]
    quiet += ["--methods", "clip"] if command == "compare" else ["--method", "clip"]
    assert run(quiet) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert {"segment": "p_labels.png", "explain": "p_classes.png", "compare": "compared.png"}[
        command
    ] in out
    assert run([*quiet, "--model", "./none", *(["-o", "no"] if command == "segment" else [])]) == 2
    assert capsys.readouterr().err.startswith("wordmask: error: got './none'")


def test_every_command_that_shows_progress_can_be_quiet(capsys):
    tables = {"methods", "refiners", "formats", "protocol", "datasets", "datasets list"}
    tables |= {"datasets show"}
    for name, command in commands():
        flags = {flag for one in command.params for flag in one.opts}
        assert ("--quiet" in flags) == (name not in tables), name


# -- help ---------------------------------------------------------------------------------------


def commands():
    from typer.main import get_command

    top = get_command(app)
    for name, command in top.commands.items():
        yield name, command
        for below, one in getattr(command, "commands", {}).items():
            yield f"{name} {below}", one


def test_help_has_no_types_of_python(capsys):
    """No `<bool>`, `<str>`, `<list[str]>`: a flag takes no value, and others say what they take."""
    assert run(["--help"]) == 0
    for name, _ in commands():
        assert run([*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert not re.findall(r"<[a-z\[\]]+>", out)
    assert not re.findall(r"Usage: .*(?:\{|\[\[)", out)
    assert "Usage: wordmask segment [OPTIONS] INPUTS...\n" in re.sub(" +\n", "\n", out)
    assert "Usage: wordmask compare [OPTIONS] [PHOTOS...]\n" in re.sub(" +\n", "\n", out)
    assert re.search(r"--overwrite  +Make existing results again", out)


def test_paragraphs_of_help_are_not_broken_inside(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["segment", "--help"]) == 0
    out = capsys.readouterr().out
    assert "the subfolders of a folder that was given. A second run resumes the first" in out


def test_help_at_80_columns(capsys, monkeypatch):
    """Each command is one line, in the group of those who need it; default networks are whole."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    groups = re.findall(r"╭─ (.+?) ─+╮\n((?:│.+\n)+)", out)
    assert [name for name, _ in groups][:2] == ["Options", "Begin"]
    lines = [line for _, text in groups[1:] for line in text.splitlines()]
    names = {name.split()[0] for name, _ in commands()}
    assert {line.split()[1] for line in lines} == names
    assert len(lines) == len(names)
    for command in ("segment", "app", "evaluate"):
        assert run([command, "--help"]) == 0
        out = capsys.readouterr().out
        assert all(kind.source in out for kind in KINDS.values()), command


def test_datasets_list(capsys):
    assert run(["datasets", "list"]) == 0
    listed = capsys.readouterr().out
    assert "voc21" in listed
    assert run(["datasets"]) == 0
    assert capsys.readouterr().out == listed
    assert run(["datasets", "list", "--json"]) == 0
    as_json = capsys.readouterr().out
    assert run(["datasets", "--json"]) == 0
    assert capsys.readouterr().out == as_json


# -- Tab ----------------------------------------------------------------------------------------


def test_names_are_those_that_are_registered():
    """They are read from the source, without importing it."""
    assert list(complete.parts("methods")) == list_methods()
    assert list(complete.parts("refiners")) == list_refiners()
    for package, registry in (("methods", METHODS), ("refiners", REFINERS)):
        for name, variants in complete.parts(package).items():
            assert variants == list(registry[name].variants), name
    assert complete.datasets("") == sorted(BENCHMARKS)


def test_lists_go_on_after_their_last_name():
    assert complete.datasets("voc21,voc20") == ["voc21,voc20"]
    assert complete.formats("labels,") == ["labels," + one for one in complete.formats("")
                                           if one != "labels"]  # fmt: skip
    assert complete.entries("clip,cliper:pa") == ["clip,cliper:paper"]
    assert complete.entries("cliper+pa") == ["cliper+pamr"]
    assert complete.refiners("diffusion,pamr:f") == ["diffusion,pamr:fine"]
    assert complete.refiners("diffusion,p") == ["diffusion,pamr", "diffusion,ptc"]
    assert complete.protocol("o") == ["official"]
    assert complete.background("thr") == ["threshold:"]


SHELL = """
import sys
from wordmask.cli import run
try:
    run([])
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("wordmask seg", ["segment"]),
        ("wordmask segment p.png --method cli", ["clip", "clip_es", "clip_surgery", "cliper",
                                                 "cliptrase"]),
        ("wordmask segment p.png --method naclip --variant ", ["paper", "vanilla"]),
        ("wordmask datasets check camvid_", ["camvid_test"]),
    ],
)  # fmt: skip
def test_a_shell_asks_and_no_network_is_loaded(typed, offered):
    words = typed.split(" ")
    done = process(
        "-c", SHELL, _WORDMASK_COMPLETE="complete_bash", COMP_WORDS=" ".join(words),
        COMP_CWORD=str(len(words) - 1),
    )  # fmt: skip
    assert done.stdout.split() == offered, done.stderr
    assert done.stderr == "False\n"


def test_completion_is_installed(tmp_path):
    done = process(
        "-c", "from wordmask.cli import main; main()", "--install-completion", "bash",
        HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "_WORDMASK_COMPLETE=complete_bash" in next(Path(tmp_path).rglob("*.sh")).read_text()
