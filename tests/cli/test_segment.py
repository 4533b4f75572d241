"""`wordmask segment`, mostly through `run`, which is all that the entry point calls."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import (
    CLASSES,
    FAST,
    files,
    one_line_error,
    picture,
    process,
    results,
    times,
    without_words,
)
from waiting import LONG, soon
from wordmask import Segmenter, batch
from wordmask.cli import common, run
from wordmask.progress import stage, steps
from wordmask.towers.text import TextTower


def segment(model: str, *arguments: str) -> int:
    return run(["segment", *arguments, "--classes", CLASSES, "--model", model, *FAST])


# -- results ------------------------------------------------------------------------------------


def test_all_formats_hold_what_the_library_returns(model, capsys):
    pixels = picture("cat.png")
    assert segment(model, "cat.png", "--out", "o", "--format", "labels,scores", "-f", "json") == 0
    assert results("o") == ["cat.json", "cat_labels.png", "cat_scores.npz"]
    segmenter = Segmenter.from_pretrained(model, "naclip", options={"short_side": 56})
    expected = segmenter(pixels, ["photo", ["cat", "do"]], "none")
    labels = Image.open("o/cat_labels.png")
    assert labels.mode == "P"
    assert np.array_equal(np.asarray(labels), expected.labels)
    with np.load("o/cat_scores.npz") as saved:
        assert list(saved["names"]) == ["photo", "cat"]
        np.testing.assert_allclose(saved["scores"], expected.scores, atol=1e-6)
    summary = json.loads(Path("o/cat.json").read_text())
    assert summary["picture"] == "cat.png"
    assert summary["words"] == [["photo"], ["cat", "do"]]
    shares = {one["name"]: one["share"] for one in summary["classes"]}
    assert shares == {name: expected.shares()[name] for name in ("photo", "cat")}
    assert summary["provenance"]["method"] == "naclip"
    assert summary["provenance"]["options"]["short_side"] == 56
    out = capsys.readouterr().out
    assert "1 picture segmented\no/cat_labels.png\no/cat_scores.npz\no/cat.json\n" in out


def test_the_default_formats_and_background(model, capsys):
    picture("a/cat.png", (48, 64))
    assert run(["segment", "a", "-c", CLASSES, "--model", model, "--short-side", "24"]) == 0
    assert files("masks")[:3] == ["cat.json", "cat_labels.png", "cat_overlay.jpg"]
    summary = json.loads(Path("masks/cat.json").read_text())
    assert summary["provenance"]["method"] == "cliper"
    assert summary["provenance"]["background"] == {"kind": "auto"}
    overlay = Image.open("masks/cat_overlay.jpg")
    assert overlay.format == "JPEG"
    assert overlay.width * overlay.height > 48 * 64  # the photo and its legend


def test_options_reach_the_method(model):
    picture("cat.png")
    arguments = ["cat.png", "-c", "a;b", "--model", model, "-m", "cliper", "--variant", "paper"]
    arguments += ["--set", "score_threshold=0.1", "--set", "attention=kk", "--window", "32,16"]
    assert run(["segment", *arguments, "-b", "threshold:0.3", "--short-side", "48"]) == 0
    provenance = json.loads(Path("masks/cat.json").read_text())["provenance"]
    assert provenance["variant"] == "paper"
    wanted = {"score_threshold": 0.1, "attention": "kk", "window": 32, "stride": 16}
    wanted |= {"fusion": "paper", "short_side": 48}
    assert {name: provenance["options"][name] for name in wanted} == wanted
    assert provenance["background"] == {"kind": "threshold", "probability": 0.3}


@pytest.mark.parametrize(
    ("window", "expected"), [("64", (64, 32)), ("64,8", (64, 8)), ("0", (0, 112))]
)
def test_the_stride_is_half_a_window_unless_given(window, expected):
    from wordmask.cli.groups import FullMethodOptions

    method, _ = FullMethodOptions("sclip", window=window).read()
    assert (method.window, method.stride) == expected


def test_classes_from_a_file_are_not_split(model):
    picture("cat.png")
    Path("words.txt").write_text("# two classes\ncat, the animal\nsofa\tcouch\n")
    arguments = ["cat.png", "--classes-file", "words.txt", "--model", model, *FAST]
    assert run(["segment", *arguments]) == 0
    assert json.loads(Path("masks/cat.json").read_text())["words"] == [
        ["cat, the animal"],
        ["sofa", "couch"],
    ]


def test_words_are_encoded_once(model, monkeypatch):
    for i in range(3):
        picture(f"p/{i}.png", seed=i)
    calls = []
    encode = TextTower.encode

    def counted(self, *arguments):
        calls.append(arguments)
        return encode(self, *arguments)

    monkeypatch.setattr(TextTower, "encode", counted)
    assert segment(model, "p") == 0
    assert len(calls) == 1


def test_summary_of_several_pictures(model, capsys):
    shares = np.zeros(3)
    for i in range(3):
        picture(f"p/{i}.png", seed=i)
    assert segment(model, "p") == 0
    out, err = capsys.readouterr()
    assert re.findall(r"^\[(\d)/3\] p/(\d)\.png: ", err, re.M) == [
        ("1", "0"),
        ("2", "1"),
        ("3", "2"),
    ]
    for i in range(3):
        labels = np.asarray(Image.open(f"masks/{i}_labels.png"))
        shares += np.bincount(labels.ravel(), minlength=3) / labels.size / 3
    for name, share in (("photo", shares[1]), ("cat", shares[2])):
        row = re.search(rf"^ +{name} +(\d+) % +(\d) *$", out, re.M)
        assert row is not None, out
        assert int(row[1]) == round(100 * share)
    assert re.search(
        r"^3 pictures segmented\nin \d+ s, \S+ pictures/s\nresults in masks$", out, re.M
    )


def test_names_are_printed_as_they_are(model, capsys):
    picture("cat.png")
    names = "[red]hen[/red];a\x1b[31mb;" + "long " * 90
    assert run(["segment", "cat.png", "-c", names, "--model", model, *FAST]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    warnings = [line for line in err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert re.match(r"wordmask: warning: the name 'long long .* too long", warnings[0])
    assert "[red]hen[/red]" in out + err


# -- names of results ---------------------------------------------------------------------------


def test_results_are_no_pictures(model, capsys):
    picture("p/a.png")
    picture("p/b_labels.png", seed=1)  # named so by its owner
    assert segment(model, "p", "--out", "p/q") == 0
    before = files("p")
    assert "q/b_labels_labels.png" in before
    capsys.readouterr()
    assert segment(model, "p", "--out", "p/q") == 0
    assert "0 pictures segmented, 2 skipped" in capsys.readouterr().out
    assert segment(model, "p/q", "--out", "p/q") == 2
    assert "no picture found but the results" in one_line_error(capsys)
    assert files("p") == before


# -- going on -----------------------------------------------------------------------------------


def test_what_is_done_is_skipped(model, capsys, monkeypatch):
    for i in range(3):
        picture(f"p/{i}.png", seed=i)
    assert segment(model, "p") == 0
    first = times("masks")
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(Segmenter, "from_pretrained", None)  # nothing is loaded
        assert segment(model, "p") == 0
    assert capsys.readouterr().out == (
        "0 pictures segmented, 3 skipped as done before (--overwrite makes them again)\n"
        "results in masks\n"
    )
    picture("p/1.png", size=(40, 80), seed=7)  # another picture of that name
    Path("masks/2_overlay.jpg").unlink()
    picture("p/3.png", seed=3)
    assert segment(model, "p") == 0
    again = times("masks")
    assert {name for name in again if again[name] != first.get(name)} == {
        f"{i}{suffix}" for i in (1, 2, 3) for suffix in (".json", "_labels.png", "_overlay.jpg")
    }
    assert Image.open("masks/1_labels.png").size == (80, 40)
    again = times("masks")
    assert segment(model, "p", "--format", "labels") == 0  # fewer formats are there too
    assert times("masks") == again
    assert segment(model, "p", "--format", "scores") == 0
    assert "3_scores.npz" in files("masks")


def test_results_of_other_settings_are_not_taken(model, capsys):
    picture("cat.png")
    Path("words.txt").write_text("cat\n")
    arguments = ["segment", "cat.png", "--classes-file", "words.txt", "--model", model, *FAST]
    assert run(arguments) == 0
    first = times("masks")
    capsys.readouterr()
    for more, said in (
        (["--set", "sigma=3"], "options.sigma (5.0 there, 3 now)"),
        (["--variant", "vanilla"], "variant (paper there, vanilla now)"),
        (["--background", "auto"], "background.kind (none there, auto now)"),
        (["--dtype", "bfloat16"], "dtype (float32 there, bfloat16 now)"),
        (["--model", "other"], "model ("),
    ):
        assert run([*arguments, *more]) == 2
        message = one_line_error(capsys)
        assert said in message
        assert "choose another out folder (--out), or overwrite (--overwrite)" in message
    Path("words.txt").write_text("cat\ndog\n")
    assert run(arguments) == 2
    assert 'classes ([["cat"]] there, [["cat"], ["dog"]] now)' in one_line_error(capsys)
    assert times("masks") == first
    assert run([*arguments, "--overwrite"]) == 0
    assert json.loads(Path("masks/cat.json").read_text())["words"] == [["cat"], ["dog"]]
    assert run(arguments) == 0


def test_a_picture_of_the_same_name_is_another_picture(model, capsys):
    picture("p/cat.png")
    picture("q/cat.png", seed=1)
    assert segment(model, "p/cat.png") == 0
    capsys.readouterr()
    assert segment(model, "q/cat.png") == 2
    assert re.search(r"was made from \S+p/cat.png and now q/cat.png", one_line_error(capsys))


def test_files_of_others_are_not_replaced(model, capsys):
    picture("p/cat.png")
    picture("p/cat_labels.png", seed=1)
    before = Path("p/cat_labels.png").read_bytes()
    assert segment(model, "p/cat.png", "--out", "p") == 2
    assert "p/cat_labels.png exists and is not from wordmask" in one_line_error(capsys)
    assert Path("p/cat_labels.png").read_bytes() == before
    assert segment(model, "p/cat.png", "--out", "p", "--overwrite") == 0


@pytest.mark.parametrize("earlier", ["nothing", "the same settings", "other settings"])
def test_an_interrupted_run_goes_on(model, capsys, monkeypatch, earlier):
    for i in range(4):
        picture(f"p/{i}.png", seed=i)
    if earlier != "nothing":
        setting = ["--set", "sigma=1"] if earlier == "other settings" else []
        assert segment(model, "p", *setting) == 0
    write = batch.FolderJob.write
    written = []

    def interrupted(self, outcome):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(outcome.picture.name)
        write(self, outcome)

    with monkeypatch.context() as patched:
        patched.setattr(batch.FolderJob, "write", interrupted)
        assert segment(model, "p", "--overwrite") == 130
    assert capsys.readouterr().err.endswith("wordmask: interrupted\n")
    (journal,) = Path("masks").glob("wordmask-*.jsonl")
    with journal.open("a") as file:
        file.write('{"key": "2", "pict')  # as a crash leaves it
    first = times("masks")
    assert segment(model, "p") == 0
    assert "2 pictures segmented, 2 skipped" in capsys.readouterr().out
    changed = {name[0] for name, at in times("masks").items() if at != first.get(name)}
    assert changed == {"2", "3"}
    assert segment(model, "p") == 0
    assert "0 pictures segmented, 4 skipped" in capsys.readouterr().out


def test_unreadable_settings(model, capsys):
    picture("cat.png")
    assert segment(model, "cat.png") == 0
    capsys.readouterr()
    Path("masks/wordmask.json").write_text("{")
    assert segment(model, "cat.png") == 2
    assert "cannot read the settings in masks/wordmask.json" in one_line_error(capsys)
    assert segment(model, "cat.png", "--overwrite") == 0


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument 'INPUTS'. (see wordmask segment --help)"),
        (["cat.png"], "no classes given"),
        (["cat.png", "-c", "a", "--classes-file", "w.txt"], "both --classes and --classes-file"),
        (["cat.png", "--classes-file", "w.txt"], "no file w.txt"),
        (["cat.png", "-c", ""], "empty name"),
        (["cat.png", "-c", "a;;b"], "class 2 has an empty name"),
        (["cat.png", "-c", "a;b;A"], "the name 'A' is in class 1 ('a') and in class 3"),
        (["cat.png", "-c", ";".join(map(str, range(65_536)))], "65,536 classes"),
        (["cat.png", "-c", "a", "-b", "treshold:0.1"], "did you mean threshold?"),
        (["cat.png", "-c", "a", "-b", "names:sky;a"], "'a' is both a class and a background name"),
        (
            ["cat.png", "-c", "a", "-f", "lables"],
            "unknown format 'lables'; did you mean labels or labels16",
        ),
        (["cat.png", "-c", "a", "--on-error", "go"], "unknown on_error 'go'"),
        (["cat.png", "-c", "a", "-m", "clipper"], "unknown method 'clipper'; did you mean cliper"),
        (["cat.png", "-c", "a", "--variant", "papr"], "unknown variant of cliper 'papr'; did you"),
        (["cat.png", "-c", "a", "--set", "atention=qq"], "did you mean attention"),
        (["cat.png", "-c", "a", "--set", "attention=zz"], "option 'attention' got 'zz'; expected"),
        (["cat.png", "-c", "a", "--set", "attention"], "write option=value"),
        (["cat.png", "-c", "a", "--short-side", "tall"], "got 'tall'; give a whole number"),
        (["cat.png", "-c", "a", "--short-side", "0"], "'--short-side': got 0; give a"),
        (["cat.png", "-c", "a", "--short-side", "9", "--set", "short_side=9"], "more than once"),
        (["cat.png", "-c", "a", "--window", "wide"], "got --window wide; give N or N,STRIDE"),
        (["cat.png", "-c", "a", "--window", "-4"], "window=-4"),
        (["cat.png", "-c", "a", "--max-pixels", "2399"], "40 is 2400 pixels, the limit is 2399"),
        (["cat.png", "-c", "a", "--device", "tpu9"], "got device 'tpu9'"),
        (["cat.png", "-c", "a", "--dtype", "int8"], "got dtype 'int8'"),
        (["cat.png", "-c", "a", "--model", "none"], "the folder none has no config.json"),
        (["cat.png", "-c", "a", "--model", "./nowhere"], "got './nowhere' as the model"),
        (["cat.png", "-c", "a", "--model", "no/such", "--offline"], "cannot load 'no/such'"),
        (["cat.png", "-c", "a", "--out", "cat.png"], "got cat.png for results; it is a file"),
        (["cat.png", "-c", "a", "--out", "cat.png/x"], "cannot make the folder cat.png/x"),
        (["dog.png", "-c", "a"], "there is no file or folder dog.png"),
        (["*.bmp", "-c", "a"], "no picture matches the pattern *.bmp"),
        (["none", "-c", "a"], "no picture found in the folder none"),
        (["https://example.org/a.png", "-c", "a"], "wordmask reads local files only"),
        (["cat.png", "-c", "a", "--colour"], "No such option: --colour"),
    ],
)
def test_wrong_use_is_one_line(model, capsys, arguments, said):
    picture("cat.png")
    Path("none").mkdir()
    options = [] if "--model" in arguments else ["--model", model]
    assert run(["segment", *arguments, *options] if arguments else ["segment"]) == 2
    assert said in one_line_error(capsys)
    assert files(".") == ["cat.png"]


def bad_pictures(folder: str) -> dict[str, str]:
    """Files that are no pictures, and what is said of them."""
    pixels = picture(f"{folder}/whole.png", (64, 64))
    whole = Path(folder, "whole.png").read_bytes()
    Path(folder, "whole.png").unlink()
    Path(folder, "empty.png").touch()
    Path(folder, "cut.png").write_bytes(whole[: len(whole) // 2])
    Path(folder, "text.jpg").write_text("not a picture")
    Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)).save(f"{folder}/nan.tiff")
    Image.fromarray(np.repeat(pixels, 16, axis=1)).save(f"{folder}/large.png")
    return {
        "cut.png": "cut.png: image file is truncated",
        "empty.png": "empty.png: the file is empty",
        "large.png": "large.png: 1024 x 64 is 65536 pixels, the limit is 5000",
        "nan.tiff": "nan.tiff: it has NaN or infinite pixels",
        "text.jpg": "text.jpg: it is not a picture",
    }


def test_bad_pictures_stop(model, capsys):
    for name, said in bad_pictures("p").items():
        assert segment("no such model", f"p/{name}", "--max-pixels", "5000") == 2
        assert said in one_line_error(capsys)
    picture("p/a.png")
    assert segment(model, "p/a.png", "p", "--max-pixels", "5000") == 2  # a, then the first bad one
    err = without_words(capsys.readouterr().err).splitlines()
    assert [line.split(": ")[:2] for line in err] == [["[1/6] p/a.png", err[0].split(": ")[1]],
                                                      ["wordmask", "error"]]  # fmt: skip
    assert files("masks")[:3] == ["a.json", "a_labels.png", "a_overlay.jpg"]
    assert len(files("masks")) == 5


def test_bad_pictures_are_left_out(model, capsys):
    bad = bad_pictures("p")
    for name in ("a.png", "z.png"):
        picture(f"p/{name}")
    assert segment(model, "p", "--on-error", "skip", "--max-pixels", "5000") == 1
    out, err = capsys.readouterr()
    skipped = [line for line in err.splitlines() if line.startswith("wordmask: skipped: ")]
    assert len(skipped) == len(bad)
    for line, said in zip(skipped, bad.values(), strict=True):
        assert said in line
    assert "2 pictures segmented, 5 failed" in out
    assert [name for name in files("masks") if "_labels" in name] == [
        "a_labels.png",
        "z_labels.png",
    ]
    assert segment(model, "p", "--on-error", "skip", "--max-pixels", "5000") == 1
    assert "0 pictures segmented, 2 skipped as done before" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["cliper", "clearclip", "sclip"])
def test_thin_pictures_and_odd_modes_are_pictures(model, method):
    picture("p/dot.png", (1, 1))
    picture("p/thin.png", (1, 200))
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"):
        suffix = "tiff" if mode in ("CMYK", "F") else "png"
        name = f"p/{mode.replace(';', '')}.{suffix}"
        if mode == "I;16":
            Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(name)
        else:
            Image.new("RGB", (30, 20), (200, 100, 50)).convert(mode).save(name)
    arguments = ["-c", "a;b", "--model", model, "-m", method, "-b", "none", "--short-side", "24"]
    arguments += ["--set", "long_side=128", "-f", "labels"]
    assert run(["segment", "p", *arguments]) == 0
    assert Image.open("masks/dot_labels.png").size == (1, 1)
    assert Image.open("masks/thin_labels.png").size == (200, 1)
    assert len([name for name in files("masks") if "_labels" in name]) == 10


def test_a_full_disk_is_one_line(model, capsys, monkeypatch):
    picture("cat.png")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert segment(model, "cat.png") == 2
    assert "No space left on device" in one_line_error(capsys)
    assert files("masks") == []


def test_too_little_memory_is_one_line(model, capsys, monkeypatch):
    picture("cat.png")

    def fail(self, prepared, single):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 10 bytes")

    monkeypatch.setattr(Segmenter, "encode_prepared", fail)
    assert segment(model, "cat.png") == 2
    assert "cannot segment cat.png: there is not enough memory" in one_line_error(capsys)


def test_errors_of_the_program_are_not_hidden(model, monkeypatch):
    picture("cat.png")

    def fail(self, prepared, single):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Segmenter, "encode_prepared", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        segment(model, "cat.png", "--on-error", "skip")


def test_the_help_says_how_classes_are_split(capsys):
    assert run(["segment", "--help"]) == 0
    words = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "split at ';' into classes and at ',' into the synonyms" in words
    for option in ("--classes-file", "--background", "--variant", "--set", "--short-side"):
        assert option in words
    for option in ("--window", "--out", "--format", "--on-error", "--overwrite", "--max-pixels"):
        assert option in words


def test_on_a_poor_terminal(model):
    """Names in any script, no UTF-8, 60 columns, colours refused."""
    picture("cät.png")
    names = "猫;café;[b]x[/b]"
    done = process(
        *["-m", "wordmask", "segment", "cät.png", "-c", names, "--model", model, *FAST],
        **{"PYTHONIOENCODING": "ascii", "COLUMNS": "60", "NO_COLOR": "1", "FORCE_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).isascii()
    codes = {
        code for text in re.findall(r"\x1b\[([\d;]*)m", done.stdout) for code in text.split(";")
    }
    assert codes <= {"0", "1", "2"}  # bold and dim, no colour
    plain = re.sub(r"\x1b\[[\d;]*m", "", done.stdout)
    assert "| caf?" in plain
    assert max(map(len, plain.splitlines())) <= 60
    summary = json.loads(Path("masks/cät.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in summary["classes"]] == ["猫", "café", "[b]x[/b]"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_interrupted(model, capsys):
    picture("p/0.png")
    for i in range(1, 2000):  # so many that their lines fill the pipe: it cannot end unread
        os.link("p/0.png", f"p/{i}.png")
    arguments = ["-m", "wordmask", "segment", "p", "-c", CLASSES, "--model", model, *FAST]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # a shell's background jobs ignore SIGINT, and so would the children of this test there
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        assert running.stderr is not None
        first = next(line for line in running.stderr if not line.startswith("wordmask: "))
        assert first.startswith("[1/2000] p/0.png: "), first
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        rest = running.stderr.read()
        assert running.wait(LONG) == 130
    assert rest.endswith("wordmask: interrupted\n")
    assert "Traceback" not in rest
    (journal,) = Path("masks").glob("wordmask-*.jsonl")
    done = [json.loads(line) for line in journal.read_text().splitlines()]
    assert 0 < len(done) < 2000
    for entry in done:
        Image.open(f"masks/{entry['key']}_labels.png").load()
        json.loads(Path(f"masks/{entry['key']}.json").read_text())
    assert not [name for name in files("masks") if name.endswith(".part")]


# -- refiners, image-level labels, one network at a time ---------------------------------------


def test_refiners_and_their_options_reach_the_result(model):
    picture("cat.png", (64, 96))
    arguments = ["cat.png", "--refine", "pamr:fine, pamr", "--set", "pamr.dilations=(2,)"]
    assert segment(model, *arguments, "--set", "pamr.steps=2") == 0
    provenance = json.loads(Path("masks/cat.json").read_text())["provenance"]
    assert [one["steps"] for one in provenance["refiners"]] == [2, 2]
    assert [one["dilations"] for one in provenance["refiners"]] == [[2], [2]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--refine", "pamrr"], ["unknown refiner 'pamrr'", "pamr"]),
        (["--refine", ","], ["empty --refine"]),
        (["--set", "pamr.steps=2"], ["'pamr' is not among --refine"]),
        (["--refine", "pamr", "--set", "pamr.steps=x"], ["steps", "'x'", "int"]),
        (["--refine", "pamr", "--set", "pamr.step=2"], ["option of pamr", "steps"]),
        (["--refine", "vfm", "--vfm", "./nowhere"], ["./nowhere"]),
        (["--vfm", "./nowhere"], ["'vfm'", "naclip", "--refine vfm"]),
        (["--classifier", "x/y"], ["'classifier'", "--method car", "classifier=second"]),
    ],
)
def test_bad_refiners(model, capsys, arguments, words):
    picture("cat.png")
    assert segment(model, "cat.png", *arguments) == 2
    error = one_line_error(capsys)
    assert all(word in error for word in words), error


def test_labels_make_pseudo_masks(model, capsys):
    picture("a/cat.png")
    picture("a/dog.png", seed=1)
    Path("labels.csv").write_text("cat.png,cat\ndog,photo, cat ,\nelsewhere.png,house\n")
    assert segment(model, "a", "--image-labels", "labels.csv") == 0
    assert set(np.unique(np.asarray(Image.open("masks/cat_labels.png")))) == {2}
    assert set(np.unique(np.asarray(Image.open("masks/dog_labels.png")))) <= {1, 2}
    before = times("masks")
    Path("labels.csv").write_text("cat.png,photo\ndog,photo,cat\n")
    assert segment(model, "a", "--image-labels", "labels.csv") == 0
    after = times("masks")
    changed = {name for name in after if after[name] != before[name]}
    assert {name.split(".")[0].split("_")[0] for name in changed} == {"cat"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dog.png,cat\n", ["no row for", "cat.png"]),
        ("cat.png,cta\n", ["label of cat.png 'cta'", "cat"]),
        ("cat.png,cat\ncat.png,photo\n", ["two rows for 'cat.png'"]),
        (None, ["labels.csv", "No such file"]),
    ],
)
def test_bad_labels(model, capsys, text, words):
    picture("cat.png")
    if text is not None:
        Path("labels.csv").write_text(text)
    assert segment(model, "cat.png", "--image-labels", "labels.csv") == 2
    error = one_line_error(capsys)
    assert all(word in error for word in words), error
    assert not Path("masks").exists()


def test_low_memory_gives_the_same_files(model):
    for name in ("a", "b", "c"):
        picture(f"in/{name}.png", (64, 96), seed=ord(name))
    Path("in/d.png").write_bytes(b"no picture")
    refine = ["--refine", "pamr", "--set", "pamr.steps=2", "--on-error", "skip"]
    assert segment(model, "in", *refine, "--out", "one") == 1
    assert segment(model, "in", *refine, "--out", "two", "--low-memory") == 1
    assert files("one") == files("two")
    for name in ("a", "b", "c"):
        one, two = (np.asarray(Image.open(f"{out}/{name}_labels.png")) for out in ("one", "two"))
        assert np.array_equal(one, two)


@pytest.mark.parametrize("every", [0.0, 1e6])
def test_slow_stages_without_a_terminal(capsys, monkeypatch, model, every):
    """A line says which stage runs, if it takes long."""
    picture("photo.png")
    monkeypatch.setattr("wordmask.bars.LINE_EVERY", every)
    assert run(["segment", "photo.png", "-c", CLASSES, "--model", model, *FAST]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("[1/1] photo.png: ")
    assert any("naclip" in line for line in lines[1:-1]) == (not every)
    assert (len(lines) == 2) == bool(every)


def test_slow_stages_on_a_terminal(monkeypatch, model):
    """The bar names the stage that runs."""
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with common.progress_bar() as bar, stage("sam"):
        bar.add_task("photo.png", total=2)
        for done in steps("points", range(2)):
            bar.refresh()
            assert f"sam, points {done}/2" in shown.getvalue()
    with common.busy("drawing"), stage("naclip"):
        soon(lambda: "naclip" in shown.getvalue())  # it is drawn 10 times a second
