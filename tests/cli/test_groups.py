"""Groups of options: what a command gets of them, and what is refused."""

from __future__ import annotations

import inspect
import json
from typing import Annotated

import numpy as np
import pytest
import typer
from PIL import Image

from wordmask.cli import run
from wordmask.cli.groups import (
    FullMethodOptions,
    MethodOptions,
    ModelOptions,
    NetworkOptions,
    WordOptions,
    expand,
)
from wordmask.errors import WordmaskError
from wordmask.methods import read_method
from wordmask.refiners import read_refiners
from wordmask.towers.auxiliary import KINDS


def test_a_command_gets_groups_and_typer_sees_options():
    got = {}

    @expand
    def command(
        image: Annotated[str, typer.Argument()], words: WordOptions, model: ModelOptions, n: int = 3
    ) -> None:
        """Does something."""
        got.update(locals())

    names = list(inspect.signature(command).parameters)
    assert names[:4] == ["image", "classes", "classes_file", "background"]
    assert names[4:] == ["model", "device", "dtype", "offline", "network", *KINDS, "n", "quiet"]
    app = typer.Typer()
    app.command()(command)
    arguments = ["a.png", "-c", "cat", "--model", "x", "--vfm", "y", "--network", "sam=z", "--n"]
    app([*arguments, "5"], standalone_mode=False)
    assert got["words"] == WordOptions(classes=["cat"])
    assert got["model"] == ModelOptions(model="x", network=["sam=z"], flags={"vfm": "y"})
    assert got["model"].sources == {"vfm": "y", "sam": "z"}
    assert (got["image"], got["n"]) == ("a.png", 5)


@pytest.mark.parametrize(
    "command", ["segment", "large", "explain", "compare", "evaluate", "bench", "selftest"]
)
def test_every_command_has_a_flag_of_every_kind(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert run([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--network" in text
    for kind in KINDS.values():
        assert f"--{kind.name} " in text


@pytest.mark.parametrize(
    ("network", "flags", "words"),
    [
        (["vfm"], {}, "KIND=SOURCE"),
        (["vfm="], {}, "KIND=SOURCE"),
        (["vfn=x"], {}, "did you mean vfm"),
        (["vfm=x", "vfm=y"], {}, "more than once"),
        (["vfm=x"], {"vfm": "y"}, "more than once"),
    ],
)
def test_sources_that_are_refused(network, flags, words):
    options = NetworkOptions(network, flags)
    assert options.kinds
    with pytest.raises(WordmaskError, match=words):
        _ = options.sources


def test_sources_that_nothing_uses():
    def refuse(kind: str, method: str, refiners: tuple | None, words: str) -> None:
        with pytest.raises(WordmaskError, match=words):
            NetworkOptions([f"{kind}=x"]).check(read_method(method)[0], refiners)

    refuse("vfm", "clip", (), "add --refine vfm")
    refuse("vfm", "clip", None, "clip does not use it; leave it out")
    refuse("classifier", "clip", (), "--set classifier=second")
    refuse("sam2", "clip", (), "add --refine vote --set vote.region_maps=sam2")
    sources = NetworkOptions(["vfm=x"])
    assert sources.check(read_method("proxyclip")[0], None) == {"vfm": "x"}
    assert sources.check(read_method("clip")[0], read_refiners("vfm")) == {"vfm": "x"}


def test_options_of_methods_and_refiners():
    options = FullMethodOptions("sclip:clearclip", None, ["window=64", "pamr.steps=2"], 48, "pamr")
    method, variant = options.read()
    assert (method.window, method.short_side, variant) == (64, 48, "clearclip")
    assert options.read_refiners()[0].steps == 2
    with pytest.raises(WordmaskError, match=r"pamr\.steps"):  # a command without refiners
        MethodOptions("sclip", None, ["pamr.steps=2"]).read()
    with pytest.raises(WordmaskError, match="more than once"):
        FullMethodOptions("sclip", None, ["window=64"], window="32").read()


def make_folder(folder, value: int) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    Image.fromarray(np.full((32, 48, 3), 40 * value, np.uint8)).save(folder / "images" / "a.png")
    Image.fromarray(np.full((32, 48), value, np.uint8)).save(folder / "masks" / "a.png")
    (folder / "names.txt").write_text("grass\nsand\n")


def test_several_folders_fit_in_one_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "one", 0)
    make_folder(tmp_path / "two", 1)
    tiny = ["--model", "wordmask/tiny-clip", "--set", "short_side=32", "--pictures", "0"]
    assert run(["evaluate", "clip", "first=one,second=two", *tiny]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "evaluation" / "results.json").read_text())["runs"]
    assert [one["dataset"] for one in found] == ["first", "second"]
    assert run(["datasets", "show", "first=one", "--json"]) == 0
    capsys.readouterr()
    assert run(["evaluate", "clip", "first=one,first=two", *tiny]) == 2
    assert "more than once" in capsys.readouterr().err
