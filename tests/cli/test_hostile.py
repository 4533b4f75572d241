"""Arguments that cannot be used: exit code 2 and one line, at once and before pictures are encoded.

Hypothesis makes argument lists from the values below; all run in one child process with limits on
memory and CPU time, which says what each gave.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands import FAST, one_line_error, picture, process, without_words
from wordmask.cli import run

NUMBERS = ["-1", "0", "99999999", "9" * 40, "nan", "inf", "1e9", "x", "", " 7", "\u0664"]
PATHS = [
    ".", "missing.jpg", "/dev/null", "a\nb.jpg", "x" * 300, "bild-\u00e4\u6f22.png", "", "-",
    "pipe.png", "text.png", "secret.png", "no/such/folder",
]  # fmt: skip
WORDS = ["", ";", ",;,", "cat; cat", "a\x00b", "a\nb; c", "\U0001f600", "x" * 5000]
WORDS += [";".join(f"word {i}" for i in range(70_000))]
OPTIONS = {
    "--short-side": NUMBERS, "--max-pixels": NUMBERS, "--window": [*NUMBERS, "1,2,3", "8,-1"],
    "--set": [f"{name}={value}" for name in ("long_side", "stride", "logit_scale", "mean", "x")
              for value in NUMBERS],
    "--device": ["meta", "cuda:99", "gpu", "", "cpu:7"], "--dtype": ["int8", "float64", ""],
    "--method": ["no", "", "x.py:Y", "naclip:no"], "--variant": ["no", ""],
    "--refine": ["no", "", ",", "pamr:no"], "--format": ["no", "", "json,no"],
    "--background": ["no", "threshold:nan", "threshold:2", "complement:-1", "names:", ""],
    "--classes-file": PATHS, "--image-labels": PATHS, "--on-error": ["no", ""],
    "--out": ["text.png", "/dev/full/x", "/proc/x", "secret/x", "a\x00b"],
    "--model": ["", "no/such/model/here", "text.png", ".", "x.py:Y"],
    "--network": ["no", "vfm=", "=x", "vfm=missing"],
}  # fmt: skip

CHILD = """
import io, json, resource, sys
from contextlib import redirect_stderr, redirect_stdout
from wordmask import bars
from wordmask.cli import run
bars.LINE_EVERY = 1e6  # a slow machine says no more than a quick one
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30,) * 2)
for arguments in json.load(open(sys.argv[1])):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = run(arguments)
        except BaseException as error:
            code = repr(error)
    print(json.dumps([code, err.getvalue()]))
"""


def lists() -> st.SearchStrategy[list[str]]:
    """`segment` with one to three options that cannot be used, and perhaps such a picture."""

    def option(name: str) -> st.SearchStrategy[list[str]]:
        return st.sampled_from(OPTIONS[name]).map(lambda value: [name, value])

    options = st.lists(st.sampled_from(sorted(OPTIONS)), min_size=1, max_size=3, unique=True)
    chosen = options.flatmap(lambda names: st.tuples(*map(option, names)))
    source = st.sampled_from(["p.png", "p.png", *PATHS])
    words = st.sampled_from(["cat", *WORDS])
    return st.tuples(source, words, chosen).map(
        lambda t: ["segment", "--offline", *FAST, "-c", t[1], *chain(*t[2]), "--", t[0]]
    )


def make_places() -> None:
    picture("p.png")
    Path("text.png").write_text("this is no picture\n")
    Path("secret.png").write_bytes(Path("p.png").read_bytes())
    Path("secret.png").chmod(0)
    os.mkfifo("pipe.png")


@pytest.mark.skipif(sys.platform != "linux", reason="limits and devices of Linux")
def test_every_argument_list_ends_with_one_line_or_works(model: str, tmp_path: Path) -> None:
    made: list[list[str]] = []

    @settings(max_examples=120, derandomize=True, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(lists())
    def collect(arguments: list[str]) -> None:
        made.append(arguments)

    collect()
    make_places()
    Path("arguments.json").write_text(json.dumps(made))
    done = process("-c", CHILD, "arguments.json", WORDMASK_MODEL=model, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(made) > 100
    for arguments, (code, err) in zip(made, said, strict=True):
        shown = [one[:80] for one in arguments]
        assert code in (0, 2), (shown, code, err)
        if code == 2:
            *before, last = without_words(err).splitlines()
            assert last.startswith("wordmask: error: "), (shown, err)
            assert all(line.startswith("[") for line in before), (shown, err)  # pictures done
            assert len(last) < 1500, (shown, err)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--short-side", "99999999", "--set", "long_side=99999999"], "GiB are free; make short_"),
        (["--device", "meta"], "got device 'meta', which is not usable here"),
        (["--max-pixels", "-1"], "got '-1'; give a whole number, 0 or more"),
        (["--image-labels", "."], "cannot read the image labels in .: it is not a file"),
    ],
)
def test_clear_words(model, capsys, options, said):
    picture("p.png")
    assert run(["segment", "p.png", "-c", "cat; dog", "--model", model, *options]) == 2
    assert said in one_line_error(capsys)


def test_a_size_that_does_not_fit_is_refused_in_python_and_by_every_command(model, capsys):
    from wordmask import Segmenter
    from wordmask.errors import WordmaskError

    pixels = picture("p.png")
    options = {"short_side": 10**8, "long_side": 10**8}
    segmenter = Segmenter.from_pretrained(model, "naclip", options=options)
    with pytest.raises(WordmaskError, match="make short_side or long_side smaller"):
        segmenter(pixels, ["cat"])
    sizes = ["--short-side", "99999999", "--set", "long_side=99999999", "--model", model]
    assert run(["explain", "p.png", "-c", "cat; dog", "--method", "naclip", *sizes]) == 2
    assert "make short_side or long_side smaller" in capsys.readouterr().err


def test_attention_that_a_method_keeps_is_counted(model, monkeypatch):
    """CLIPer holds the maps of every head, NACLIP does not."""
    from wordmask import Segmenter
    from wordmask.errors import WordmaskError

    segmenter = Segmenter.from_pretrained(model, "naclip", options={"short_side": None})
    patches = (1000 // segmenter.tower.patch) ** 2
    monkeypatch.setattr("wordmask.towers.memory.free_memory", lambda device: 3 * 4 * patches**2)
    segmenter.method.check_size(1000, 1000, segmenter.tower)
    cliper = segmenter.with_method("cliper", None, {"short_side": None}).method
    with pytest.raises(WordmaskError, match="make short_side or long_side smaller"):
        cliper.check_size(1000, 1000, segmenter.tower)


def test_maps_of_refiners_are_counted_before_they_are_made(model, monkeypatch):
    """FreeCP's attention, the trees of `dendro` and `attention`, the graph of LPOSS."""
    from wordmask import Segmenter
    from wordmask.errors import WordmaskError

    networks = {"vfm": "wordmask/tiny-vfm"}
    options = {"short_side": None}
    plain = Segmenter.from_pretrained(model, "naclip", options=options, networks=networks)
    pixels = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    plain.networks.load(["vfm"])
    held = plain.method.maps_held(plain.tower)
    assert plain.with_method("rf_clip").method.maps_held(plain.tower) > held
    free = 3 * 4 * (160 // plain.tower.patch) ** 4 + 2 * 12 * 160**2 + 2**17
    monkeypatch.setattr("wordmask.towers.memory.free_memory", lambda device: free)
    plain(pixels, ["cat"])
    vote = [("vote", {"region_maps": "attention"})]
    refiners = {"freecp": "picture of 160", "dendro": "tree of", "lposs": "graph of"}
    for refine, what in [*refiners.items(), (vote, "tree of")]:
        segmenter = plain.with_method("naclip", None, options, refine)
        with pytest.raises(WordmaskError, match=f"{what}.*needs about .*smaller"):
            segmenter(pixels, ["cat"])


@pytest.mark.parametrize("command", ["explain", "compare", "segment"])
def test_no_memory_is_one_line(model, monkeypatch, capsys, command):
    def allocate(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nat alloc_cpu.cpp:127")

    picture("p.png")
    monkeypatch.setattr("wordmask.towers.clip.ClipTower.trace", allocate)
    given = [command, "p.png", "-c", "cat", "--model", model]
    method = ["--methods", "clip"] if command == "compare" else ["--method", "clip"]
    assert run([*given, *method]) == 2
    assert "there is not enough memory" in one_line_error(capsys)
