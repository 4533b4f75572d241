"""Folders of pictures from Python: what is made, skipped, gone on with and refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import files, picture, results, times
from tiny import save_tiny_clip, tiny_clip
from wordmask import Background, Segmenter, WordmaskError, segment_folder
from wordmask.batch import FolderJob, engine, find_pictures, run_settings
from wordmask.batch.engine import Mapper
from wordmask.cli import run

WORDS = ["photo", ["cat", "do"]]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_clip(folder, layers=2, text_layers=1)
    return str(folder)


@pytest.fixture
def segmenter(model) -> Segmenter:
    return Segmenter.from_pretrained(model, "naclip", options={"short_side": 56})


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        picture(f"p/{i}.png", seed=i)


# -- results ------------------------------------------------------------------------------------


def test_what_is_written_is_what_the_segmenter_returns(segmenter):
    reported = []
    formats = ["scores", "json", "labels"]
    summary = segment_folder(
        segmenter, "p", WORDS, "o", background="none", formats=formats, progress=reported.append
    )
    expected = [segmenter(f"p/{i}.png", WORDS, "none") for i in range(3)]
    for i, result in enumerate(expected):
        assert np.array_equal(np.asarray(Image.open(f"o/{i}_labels.png")), result.labels)
        assert np.array_equal(reported[i].result.labels, result.labels)
        with np.load(f"o/{i}_scores.npz") as saved:
            assert np.array_equal(saved["scores"], result.scores)
        assert json.loads(Path(f"o/{i}.json").read_text())["provenance"] == json.loads(
            json.dumps(result.provenance)
        )
    assert results("o") == [f"{i}{end}" for i in range(3) for end in
                            (".json", "_labels.png", "_scores.npz")]  # fmt: skip
    assert [(one.number, one.total, one.picture.name) for one in reported] == [
        (1, 3, "0"),
        (2, 3, "1"),
        (3, 3, "2"),
    ]
    assert (summary.segmented, summary.skipped, summary.failed) == (3, 0, {})
    counts = np.array([np.bincount(one.labels.ravel(), minlength=3) for one in expected])
    assert np.array_equal(summary.pixels, counts.sum(0))
    assert np.array_equal(summary.occurrences, (counts > 0).sum(0))
    assert summary.names == ("photo", "cat")


def test_inputs_of_every_kind(segmenter):
    for inputs in ("p/0.png", Path("p/0.png"), ["p/0.png"], [Path("p/0.png"), "p/0.png"]):
        out = f"o{len(os.listdir())}"
        assert segment_folder(segmenter, inputs, WORDS, Path(out)).segmented == 1
        assert "0_labels.png" in files(out)


@pytest.mark.parametrize("background", ["auto", ["lamp"], Background.threshold(0.3)])
def test_the_background_is_what_a_call_takes(segmenter, background):
    segment_folder(segmenter, "p/0.png", WORDS, "o", background=background)
    expected = segmenter("p/0.png", WORDS, background)
    assert np.array_equal(np.asarray(Image.open("o/0_labels.png")), expected.labels)
    assert json.loads(Path("o/0.json").read_text())["provenance"]["background"] == json.loads(
        json.dumps(Background.of(background).describe())
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"formats": ["lables"]}, "unknown format 'lables'; did you mean labels"),
        ({"formats": []}, "got no format; choose from: labels"),
        ({"on_error": "go"}, "unknown on_error 'go'"),
        ({"words": []}, "the list of words is empty"),
        (
            {"words": torch.zeros(2, 8)},
            "class 1 must be a name or a list",
        ),
        ({"background": "treshold"}, "unknown background 'treshold'"),
        ({"background": ["photo"]}, "'photo' is both a class and a background name"),
        ({"inputs": []}, "no picture given"),
        ({"inputs": "q"}, "there is no file or folder q"),
        ({"out": "p/0.png"}, "got p/0.png for results; it is a file"),
        ({"image_labels": {"0": ["cat"], "1": ["cat"]}}, "image_labels has no row for p/2.png"),
        (
            {"image_labels": {str(i): "cat, dog" for i in range(3)}},
            'image_labels has \'cat, dog\' for p/0.png; write ["cat", "dog"]',
        ),
        ({"image_labels": {str(i): ["cta"] for i in range(3)}}, "unknown label of 0 'cta'"),
        ({"image_labels": "none.csv"}, "cannot read the image labels in none.csv"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(segmenter, arguments, said):
    with pytest.raises(WordmaskError) as error:
        segment_folder(segmenter, **{"inputs": "p", "words": WORDS, "out": "o"} | arguments)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert files(".") == ["p/0.png", "p/1.png", "p/2.png"]


def test_image_labels_from_a_dict_or_a_file(segmenter):
    rows = {"p/0.png": ["cat"], "1.png": ["photo", "photo"], "2": ["cat", "photo"]}
    Path("labels.csv").write_text("".join(f"{k},{','.join(v)}, \n" for k, v in rows.items()))
    summary = segment_folder(segmenter, "p", WORDS, "o", image_labels=rows)
    assert summary.occurrences[2] == 2
    for i, names in enumerate(rows.values()):
        expected = segmenter(f"p/{i}.png", WORDS, image_labels=names)
        assert np.array_equal(np.asarray(Image.open(f"o/{i}_labels.png")), expected.labels)
    assert segment_folder(segmenter, "p", WORDS, "o", image_labels="labels.csv").skipped == 3
    changed = {**rows, "2": ["photo"]}
    summary = segment_folder(segmenter, "p", WORDS, "o", image_labels=changed)
    assert (summary.segmented, summary.skipped) == (1, 2)
    with pytest.raises(WordmaskError, match=r"image_labels \(true there, false now\)"):
        segment_folder(segmenter, "p", WORDS, "o")


# -- names of results ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("present", "inputs", "names"),
    [
        (["p/a.jpg", "p/q/b.png"], ["p"], ["a", "q/b"]),
        (["p/a.jpg", "p/q/b.png"], ["p/a.jpg", "p/q/b.png"], ["a", "b"]),
        (["p/q/a.jpg", "p/r/b.jpg"], ["p/*/*.jpg"], ["q/a", "r/b"]),
        (["p/q/a.jpg", "p/r/b.jpg"], ["p/*"], ["q/a", "r/b"]),
        (["p/q/a.jpg", "p/r/a.jpg", "p/r/b.jpg"], ["p/q/a.jpg", "p/r/a.jpg", "p/r/b.jpg"],
         ["q/a", "r/a", "r/b"]),
        (["p/a.jpg", "q/a.jpg"], ["p", "q"], ["p/a", "q/a"]),
        (["p/a.jpg", "p/a.png", "p/b.jpg"], ["p"], ["a.jpg", "a.png", "b"]),
        (["p/wordmask.jpg"], ["p"], ["wordmask.jpg"]),
        (["p/a.jpg"], ["p", "p/a.jpg", "./p/a.jpg"], ["a"]),
    ],
)  # fmt: skip
def test_every_picture_has_a_name_of_its_own(present, inputs, names, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("names"))
    for path in present:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    assert [Path(one.name).as_posix() for one in find_pictures(inputs, Path("o"))] == names


# -- going on -----------------------------------------------------------------------------------


def test_what_is_done_is_skipped(segmenter, monkeypatch):
    segment_folder(segmenter, "p", WORDS, "o")
    before = times("o")
    with monkeypatch.context() as patched:
        patched.setattr(Segmenter, "prepare", None)
        summary = segment_folder(segmenter, "p", WORDS, "o")
    assert (summary.segmented, summary.skipped) == (0, 3)
    assert not summary.pixels.any()
    picture("p/1.png", seed=7)
    summary = segment_folder(segmenter, "p", WORDS, "o")
    assert (summary.segmented, summary.skipped) == (1, 2)
    assert {name for name, at in times("o").items() if at != before[name]} == {
        "1.json",
        "1_labels.png",
        "1_overlay.jpg",
    }
    assert segment_folder(segmenter, "p", WORDS, "o", overwrite=True).segmented == 3


def test_the_command_and_the_function_go_on_with_each_other(model, segmenter, capsys):
    command = ["segment", "p", "-c", "photo; cat, do", "--model", model, "--method", "naclip"]
    command += ["--short-side", "56", "--background", "none", "--out", "o"]
    assert run([*command, "--refine", "pamr"]) == 0
    refined = segmenter.with_method("naclip", None, {"short_side": 56}, "pamr")
    assert segment_folder(refined, "p", WORDS, "o", background="none").skipped == 3
    with pytest.raises(WordmaskError, match="different settings: refiners"):
        segment_folder(segmenter, "p", WORDS, "o", background="none")
    segment_folder(segmenter, "p", WORDS, "o", background="none", overwrite=True)
    capsys.readouterr()
    assert run(command) == 0
    assert "0 pictures segmented, 3 skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"words": ["photo", "cat"]}, "classes[1]"),
        ({"background": "none"}, "background.kind (auto there, none now)"),
        ({"method": "clip"}, "method (naclip there, clip now)"),
        ({"options": {"short_side": 64}}, "options.short_side (56 there, 64 now)"),
        ({"refine": [("pamr", {"steps": 2})]}, "refiners"),
    ],
)
def test_results_of_other_settings_are_refused(segmenter, change, said):
    segment_folder(segmenter, "p", WORDS, "o")
    before = times("o")
    arguments = {"words": WORDS, "background": "auto"}
    arguments |= {key: change[key] for key in arguments.keys() & change.keys()}
    parts = {"method": "naclip", "variant": None, "options": {"short_side": 56}, "refine": None}
    other = segmenter.with_method(**parts | {k: change[k] for k in parts.keys() & change.keys()})
    with pytest.raises(WordmaskError) as error:
        segment_folder(other, "p", out="o", **arguments)
    assert said in str(error.value)
    assert "choose another out folder (--out), or overwrite (--overwrite)" in str(error.value)
    assert times("o") == before
    assert segment_folder(other, "p", out="o", overwrite=True, **arguments).segmented == 3
    assert segment_folder(other, "p", out="o", **arguments).skipped == 3


def test_other_weights_under_the_same_name_are_refused(model, segmenter):
    segment_folder(segmenter, "p", WORDS, "o", formats=["labels"])
    with torch.no_grad():
        segmenter.tower.model.visual_projection.weight.mul_(-1)
    other = Segmenter(segmenter.tower, segmenter.text, segmenter.method, segmenter.variant,
                      source=segmenter.source)  # fmt: skip
    with pytest.raises(WordmaskError, match=r"o holds results of other weights of \S+; choose"):
        segment_folder(other, "p", WORDS, "o", formats=["labels"])
    kept = {"formats": ["labels"], "overwrite": True}
    assert segment_folder(other, "p/0.png", WORDS, "o", **kept).segmented == 1
    assert segment_folder(other, "p", WORDS, "o", formats=["labels"]).segmented == 2


def test_auxiliary_models_in_memory_count_by_their_weights(segmenter):
    from wordmask.refiners import read_refiners

    refiners = read_refiners("vfm")
    settings = [
        run_settings(segmenter.method, "paper", refiners, {"vfm": vfm}, "m", torch.float32)
        for vfm in (tiny_clip(seed=0), tiny_clip(seed=1), tiny_clip(seed=0), "a/b", Path("p"))
    ]
    networks = [one["networks"]["vfm"] for one in settings]
    assert networks[0] == networks[2] != networks[1]
    assert networks[3:] == ["a/b", os.path.abspath("p")]
    assert json.dumps(settings)


def test_a_picture_replaced_while_it_is_read_is_made_again(segmenter, monkeypatch):
    load = Mapper.load

    def slow(self, number, one):
        loaded = load(self, number, one)
        picture(str(one.path), seed=9)
        return loaded

    with monkeypatch.context() as patched:
        patched.setattr(Mapper, "load", slow)
        assert segment_folder(segmenter, "p/0.png", WORDS, "o").segmented == 1
    assert segment_folder(segmenter, "p/0.png", WORDS, "o").segmented == 1
    assert segment_folder(segmenter, "p/0.png", WORDS, "o").skipped == 1


# -- pictures that cannot be used ---------------------------------------------------------------


def test_bad_pictures_are_skipped_or_stop(segmenter):
    Path("p/1.png").write_bytes(b"no picture")
    reported = []
    summary = segment_folder(segmenter, "p", WORDS, "o", on_error="skip", progress=reported.append)
    assert (summary.segmented, list(summary.failed)) == (2, [Path("p/1.png")])
    assert "p/1.png: it is not a picture" in summary.failed[Path("p/1.png")]
    assert [(one.number, one.result is None, one.reason != "") for one in reported] == [
        (1, False, False),
        (2, True, True),
        (3, False, False),
    ]
    with pytest.raises(WordmaskError, match=r"p/1.png: it is not a picture"):
        segment_folder(segmenter, "p", WORDS, "o2")
    assert "0.json" in files("o2")


def test_the_first_picture_is_checked_before_a_model_is_loaded(segmenter):
    Path("p/0.png").write_bytes(b"no picture")
    settings = run_settings(segmenter.method, "paper", (), {}, "m", torch.float32)
    with pytest.raises(WordmaskError, match=r"p/0.png: it is not a picture"):
        FolderJob("p", WORDS, "o", settings).check_first(None)
    FolderJob("p", WORDS, "o", settings, on_error="skip").check_first(None)
    with pytest.raises(WordmaskError, match="the limit is 10"):
        FolderJob("p/1.png", WORDS, "o", settings).check_first(10)
    assert not Path("o").exists()


def test_errors_of_the_caller_are_not_taken_for_those_of_pictures(segmenter):
    def progress(_):
        raise WordmaskError("enough")

    with pytest.raises(WordmaskError, match=r"^enough$"):
        segment_folder(segmenter, "p", WORDS, "o", on_error="skip", progress=progress)
    assert segment_folder(segmenter, "p", WORDS, "o").skipped >= 1


@pytest.mark.parametrize("low_memory", [False, True])
def test_too_little_memory_for_scores_is_a_reason(segmenter, monkeypatch, low_memory):
    monkeypatch.setattr(engine, "LOW_MEMORY_GROUP", 2)
    segmenter.low_memory = low_memory
    score_all = Segmenter.score_all
    calls = []

    def fail(self, encodings, texts):
        calls.append(len(encodings))
        if len(calls) == 1:
            raise MemoryError
        return score_all(self, encodings, texts)

    monkeypatch.setattr(Segmenter, "score_all", fail)
    summary = segment_folder(segmenter, "p", WORDS, "o", on_error="skip")
    # a group that fails is done one by one
    assert calls == ([2, 1, 1, 1] if low_memory else [1, 1, 1])
    assert len(summary.failed) == (0 if low_memory else 1)
    if not low_memory:
        assert "not enough memory" in summary.failed[Path("p/0.png")]


def test_low_memory_gives_the_same_files(segmenter, monkeypatch):
    monkeypatch.setattr(engine, "LOW_MEMORY_GROUP", 2)
    refined = segmenter.with_method("naclip", None, {"short_side": 56}, "pamr")
    segment_folder(refined, "p", WORDS, "o")
    refined.low_memory = True
    segment_folder(refined, "p", WORDS, "o2")
    assert results("o") == results("o2")
    for name in results("o"):
        assert Path("o", name).read_bytes() == Path("o2", name).read_bytes(), name
