"""The command line, mostly through `run`, which is all that the entry point calls."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from commands import files, one_line_error, picture, process
from wordmask import list_methods, list_refiners
from wordmask.cli import run
from wordmask.methods import METHODS, Method, create_method
from wordmask.options import describe, split_docstring

# -- methods ------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["60", "80", "140"])
def test_the_table_of_methods(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert run(["methods"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= int(columns)
    words = " ".join(out.split())
    for name, method in METHODS.items():
        assert name in words
        assert str(method.year) in words
        for variant in method.variants:
            assert variant in words
    assert "wordmask methods NAME" in words  # which has the options


@pytest.mark.parametrize("name", list_methods())
def test_one_method_in_full(capsys, name):
    assert run(["methods", name]) == 0
    out = capsys.readouterr().out
    method, variant = create_method(name)
    assert variant in out
    for option, value in method.options().items():
        shown = str(value).lower() if value is None or isinstance(value, bool) else str(value)
        assert f"{option}={shown}" in out


@pytest.mark.parametrize("name", list_methods())
def test_every_option_is_described(name):
    for option in describe(METHODS[name], Method)["options"]:
        assert len(option["description"]) > 10, option["name"]


def test_methods_as_json(capsys):
    assert run(["methods", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in described] == list_methods()
    assert run(["methods", "naclip", "--json"]) == 0
    naclip = json.loads(capsys.readouterr().out)
    assert naclip in described
    assert naclip["paper"].startswith("NACLIP (Hajimiri et al.,")
    assert naclip["year"] == 2025
    sigma = next(option for option in naclip["options"] if option["name"] == "sigma")
    assert sigma == {
        "name": "sigma",
        "type": "float",
        "default": 5.0,
        "description": "width of the Gaussian in patches.",
        "common": False,
    }


def test_an_unknown_method(capsys):
    assert run(["methods", "cliperr"]) == 2
    assert "unknown method 'cliperr'; did you mean cliper" in one_line_error(capsys)


# -- doctor -------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["80", "100"])
def test_doctor(capsys, monkeypatch, columns):
    """Fits the terminal, but for the commands to copy; exit code 2 says that a part is broken."""
    monkeypatch.setenv("COLUMNS", columns)
    assert run(["doctor", "--offline"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    shown, _, todo = out.partition("All that wordmask needs works.")
    assert max(map(len, shown.splitlines())) <= int(columns)
    for word in ("float16 works", "openai/clip-vit-base-patch16", "diffusers", "was not asked"):
        assert word in " ".join(shown.split()), word
    assert all(line.split()[0] in ("fails", "partial", "absent") for line in todo.split("\n")[1:-1])

    monkeypatch.setattr("wordmask.doctor._cosines", lambda *_: 1 / 0)
    assert run(["doctor", "--offline", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert not report["works"]
    assert report["devices"][0]["state"] == "broken"
    assert run(["doctor", "--offline"]) == 2
    assert "Something is broken.\nbroken  device cpu: " in capsys.readouterr().out


def test_docstrings_are_split():
    doc = """First line.

Variants:
- `one`: this
  and that
- `two`

Args:
    a, b: what
        they do.
    c: more: of it.
"""
    text, arguments = split_docstring(doc)
    assert text == ["First line.", "Variants:", "- `one`: this and that", "- `two`"]
    assert arguments == {"a": "what they do.", "b": "what they do.", "c": "more: of it."}


def test_the_refiners_are_listed_and_described(capsys):
    assert run(["refiners"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in list_refiners())
    assert run(["refiners", "pamr"]) == 0
    text = capsys.readouterr().out
    assert "--refine pamr --set pamr.option=value" in text
    assert run(["refiners", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in described] == list_refiners()
    assert all(option["description"] for one in described for option in one["options"])
    assert run(["refiners", "pamrr"]) == 2
    assert "unknown refiner" in one_line_error(capsys)


# -- explain ------------------------------------------------------------------------------------


def test_explain_draws_three_pictures(model, capsys):
    picture("p/cat.png")
    arguments = ["p/cat.png", "-c", "photo;cat", "--model", model, "-b", "none"]
    arguments += ["--short-side", "56", "--point", "59,39", "--out", "e"]
    assert run(["explain", *arguments]) == 0
    names = ["cat_attention.png", "cat_layers.png", "cat_classes.png"]
    assert capsys.readouterr().out.splitlines() == [str(Path("e", name)) for name in names]
    assert files("e") == sorted(names)
    for name in names:
        assert Image.open(f"e/{name}").size > (100, 100)


def test_explain_draws_what_is_asked_for(model, capsys):
    picture("cat.png")
    run_it = ["explain", "cat.png", "--model", model, "--short-side", "56", "--out", "e"]
    assert run([*run_it, "--show", "recovery,global", "--point", "5,5", "--point", "50,30"]) == 0
    assert files("e") == ["cat_global.png", "cat_recovery.png"]
    words = ["-c", "photo;cat", "-b", "none"]
    assert run([*run_it, *words, "--refine", "pamr", "--set", "pamr.steps=2"]) == 0
    assert "cat_refined.png" in files("e")
    capsys.readouterr()
    assert run([*run_it, *words, "--show", "all"]) == 0
    said = capsys.readouterr()
    assert "left out refined: " in said.err
    assert "left out clusters: " in said.err
    assert "diffusion" not in said.out  # nobody named one, and none is downloaded
    assert "cat_residual.png" in files("e")
    assert run(["explain", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "early-last: " in listed
    assert "CLIPer, Fig. 2b" in listed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--point", "60,10"], "the point 60,10 is outside the picture of 60 x 40 pixels"),
        (["--point", "10"], "got --point 10; give column and row"),
        (["--point", "a,b"], "got --point a,b"),
        (["--method", "nothing"], "unknown method 'nothing'"),
        (["--max-pixels", "100"], "the limit is 100"),
        (["--show", "nothing"], "unknown view 'nothing'"),
        (["--show", "clusters", "--method", "clip"], "needs --method cliptrase"),
        (["--diffusion", "x"], "got the auxiliary model 'diffusion'"),
        (["--model", "./none"], "got './none' as the model"),
    ],
)
def test_explain_refuses(model, capsys, arguments, said):
    picture("cat.png")
    if "--model" not in arguments:
        arguments = [*arguments, "--model", model]
    assert run(["explain", "cat.png", "-c", "a", *arguments]) == 2
    assert said in one_line_error(capsys)
    assert files(".") == ["cat.png"]


# -- the program --------------------------------------------------------------------------------


def test_help_and_version(capsys):
    assert run([]) == 2
    assert "segment" in capsys.readouterr().out
    assert run(["--version"]) == 0
    assert re.fullmatch(r"wordmask \d+\.\d+\.\d+\n", capsys.readouterr().out)
    assert run(["segmnt"]) == 2
    assert "No such command 'segmnt'" in one_line_error(capsys)


def test_help_and_wrong_use_load_no_network():
    script = """
import sys
import wordmask
from wordmask.cli import run
codes = [run(arguments) for arguments in (
    ["--help"], ["--version"], ["segment", "--help"], ["explain", "--help"], ["methods", "--help"],
    ["segment", "x.png", "--classes", ""], ["segment", "x.png", "-c", "a", "-f", "lables"],
)]
heavy = [m for m in ("torch", "transformers", "huggingface_hub", "numpy.f2py") if m in sys.modules]
print("RESULT", codes, heavy)
"""
    done = process("-c", script)
    assert done.stdout.splitlines()[-1] == "RESULT [0, 0, 0, 0, 0, 2, 2] []", done.stderr
