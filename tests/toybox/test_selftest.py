"""The selftest: its scenes and its counting by hand, and the quality of the built-in tiny CLIP."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import wordmask
from wordmask import toybox
from wordmask.cli import run
from wordmask.errors import WordmaskError
from wordmask.methods import METHODS
from wordmask.methods.clip import Clip
from wordmask.metrics import Boundary, Confusion
from wordmask.refiners import REFINERS, WordStep
from wordmask.toybox import selftest

WEIGHTS = Path(wordmask.__file__).parent / "networks" / "tiny-clip" / "model.safetensors"
needs_weights = pytest.mark.skipif(
    not WEIGHTS.is_file(), reason="the weights of wordmask/tiny-clip are not in this checkout"
)

# Stated in the model card of tiny-clip, which also quotes what was measured.
BEST = ("clip_surgery", "cliper", "clearclip")
COMPARED = ("clip", "sclip", "cliptrase", "proxyclip", *BEST)
LEAST_GAIN = 0.55  # of mean IoU over the last block as it is
LEAST_BEST = 0.65  # mean IoU of the best method
LEAST_HELD_OUT = 0.60  # share of the pixels of things never seen together that are named right
# What a refiner adds to CLIPer: mean IoU and boundary IoU, stated in docs/selftest.md.
LEAST_REFINED = {
    "dendro": (0.02, 0.08),
    "vfm": (0.02, 0.08),
    "diffusion": (0.02, 0.08),
    "lposs": (-0.05, 0.05),
    "pamr": (0.0, 0.05),
}


# -- scenes and counting ------------------------------------------------------------------------


def test_scenes_follow_from_the_seed_and_show_what_was_asked_for():
    first, again = (toybox.fresh_scenes(4, seed=3) for _ in range(2))
    other = toybox.fresh_scenes(4, seed=4)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a.image, b.image) for a, b in zip(first, other, strict=True))
    held_out = toybox.fresh_scenes(12, held_out="only")
    pairs = {(t.colour, t.surface) for scene in held_out for t in scene.things}
    assert pairs <= toybox.HELD_OUT_LOOKS
    trained = toybox.fresh_scenes(12)
    pairs = {(t.colour, t.surface) for scene in trained for t in scene.things}
    assert not pairs & toybox.HELD_OUT_LOOKS


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (-1, 0), (200_000, 0), (1, -1)])
def test_impossible_scenes_are_refused(count, seed):
    with pytest.raises(WordmaskError, match=r"scenes|seed"):
        toybox.fresh_scenes(count, seed)


def test_counting_and_judging_by_hand():
    # the first 8 classes are grounds, 9 and 10 are things
    target = np.array([[1, 1, 1, 1], [9, 9, 10, 10]], np.uint8)
    prediction = np.array([[1, 1, 1, 9], [9, 0, 10, 2]], np.uint8)
    counted = [kind(10, background=False) for kind in (Confusion, Boundary)]
    for one in counted:
        one.update(target, prediction)
    quality = selftest.judge(*counted)
    # class 1: 3 of 4; class 2: 0 of 1; class 9: 1 of 3; class 10: 1 of 2
    assert quality.mean_iou == pytest.approx((3 / 4 + 0 + 1 / 3 + 1 / 2) / 4)
    assert quality.boundary_iou == quality.mean_iou  # masks this thin are all outline
    assert quality.pixels == pytest.approx(5 / 8)
    assert quality.things == pytest.approx(2 / 4)


def fake(scenes, predict):
    """A segmenter that labels by a function of scene and words."""
    by_image = {id(scene.image): scene for scene in scenes}
    return lambda image, words, background: SimpleNamespace(
        labels=predict(by_image[id(image)], words)
    )


def test_the_target_is_perfect_and_one_word_for_all_is_not():
    scenes = toybox.fresh_scenes(6)
    seconds: list[float] = []
    perfect = selftest.judge(*selftest.count(fake(scenes, toybox.label_map), scenes, seconds))
    assert dataclasses.astuple(perfect) == (1, 1, 1, 1)
    assert len(seconds) == 6
    grass = fake(scenes, lambda scene, words: np.full((96, 96), words.index("grass") + 1))
    quality = selftest.judge(*selftest.count(grass, scenes, []))
    share = np.mean([toybox.label_map(scene, ["grass"]) == 1 for scene in scenes])
    assert quality.pixels == pytest.approx(share)
    assert quality.things == 0


def test_every_scene_has_sixteen_words_or_more():
    for index, scene in enumerate(toybox.fresh_scenes(20)):
        words = toybox.choices(scene, selftest.WORDS, seed=index)
        assert len(set(words)) >= 16
        assert set(words) <= set(toybox.NAMES)


def test_what_is_registered_joins(monkeypatch):
    plain = [one for one in selftest.candidates() if not one.refine]
    assert [one.method for one in plain] == sorted(METHODS)
    refined = {one.refine: one for one in selftest.candidates() if one.refine}
    assert set(refined) == {
        n for n in REFINERS if REFINERS[n].network in ("none", *selftest.NETWORKS)
    }
    for name, one in refined.items():
        words = issubclass(REFINERS[name], WordStep)
        assert one.method == (selftest.REWORDED if words else selftest.REFINED)
    every = selftest.candidates(variants=True, refiners=[])
    assert every == [(name, v, "") for name in sorted(METHODS) for v in METHODS[name].variants]
    assert selftest.candidates(["clip", "clip"]) == [("clip", "paper", "")]
    assert [one.label for one in selftest.candidates(["clip"], refiners=["pamr"])] == [
        "clip",
        "cliper + pamr",
    ]

    class Another(Clip):
        name = "another"

    monkeypatch.setitem(METHODS._known, "another", Another)
    assert ("another", "paper", "") in selftest.candidates()
    with pytest.raises(WordmaskError, match="did you mean cliper"):
        selftest.candidates(["clipper"])
    with pytest.raises(WordmaskError, match="did you mean pamr"):
        selftest.candidates(refiners=["parm"])


def test_what_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    left = {one.label for one in selftest.candidates()}
    assert "cliptrase" not in left
    assert "cliper + diffusion" not in left
    assert {"cliper", "cliper + pamr"} <= left


# -- quality of the built-in network ------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict[str, selftest.Measurement]:
    """The methods and refiners of which something is stated, on 24 + 24 scenes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORDMASK_CACHE", str(tmp_path_factory.mktemp("cache")))
        chosen = selftest.candidates(COMPARED, refiners=LEAST_REFINED)
        rows = selftest.measure(chosen, scenes=24, seed=1)
    assert rows == sorted(rows, key=lambda row: -row.trained.mean_iou)
    return {row.label: row for row in rows}


@needs_weights
def test_every_registered_method_is_measured():
    chosen, told = selftest.candidates(), []
    rows = selftest.measure(chosen, scenes=1, report=told.append)
    assert [row.label for row in told] == [one.label for one in chosen]
    assert all(0 <= row.trained.pixels <= 1 and row.milliseconds > 0 for row in rows)


@needs_weights
def test_the_best_methods_beat_the_plain_last_block(measured):
    plain = measured["clip"].trained.mean_iou
    for method in BEST:
        assert measured[method].trained.mean_iou - plain >= LEAST_GAIN, method
    assert max(row.trained.mean_iou for row in measured.values()) >= LEAST_BEST


@needs_weights
def test_things_never_seen_together_are_named(measured):
    for method in BEST:
        assert measured[method].held_out.things >= LEAST_HELD_OUT, method
        assert measured[method].held_out.things > 5 * measured["clip"].held_out.things


@needs_weights
@pytest.mark.parametrize("refiner", LEAST_REFINED)
def test_refiners_raise_mean_iou_and_boundary_iou(measured, refiner):
    plain, refined = (measured[name].trained for name in ("cliper", f"cliper + {refiner}"))
    gain, outlines = LEAST_REFINED[refiner]
    assert refined.mean_iou - plain.mean_iou >= gain
    assert refined.boundary_iou - plain.boundary_iou >= outlines


@needs_weights
def test_methods_with_more_than_clip_work(measured):
    assert measured["proxyclip"].trained.mean_iou >= LEAST_BEST - 0.05
    assert measured["proxyclip"].trained.boundary_iou > measured["cliper"].trained.boundary_iou
    assert measured["cliptrase"].trained.mean_iou > measured["sclip"].trained.mean_iou


@needs_weights
def test_quality_follows_from_the_seed():
    chosen = selftest.candidates(["clearclip"])
    one, same, other = (selftest.measure(chosen, scenes=3, seed=s)[0] for s in (5, 5, 6))
    assert (one.trained, one.held_out) == (same.trained, same.held_out)
    assert one.trained != other.trained


# -- the command --------------------------------------------------------------------------------


@needs_weights
def test_the_command_prints_a_table_or_json(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    arguments = ["selftest", "--scenes", "2", "--methods", "clip, clearclip", "--variants"]
    assert run(arguments) == 0
    table = capsys.readouterr().out
    rows = [line.split() for line in table.splitlines() if line.startswith(" cl")]
    assert sorted(row[:2] for row in rows) == [
        ["clearclip", "paper"],
        ["clearclip", "vanilla"],
        ["clip", "paper"],
    ]
    assert "templates=openai" in table
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scenes"] == 2
    assert found["options"] == selftest.TOYBOX_OPTIONS
    by_name = {(row["method"], row["variant"]): row for row in found["rows"]}
    best = by_name["clearclip", "paper"]["trained"]
    (shown,) = [row[2] for row in rows if row[:2] == ["clearclip", "paper"]]
    assert shown == f"{100 * best['mean_iou']:.1f}"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--methods", "clipper"], "did you mean cliper"),
        (["--scenes", "0"], "got 0 scenes"),
        (["--seed", "-2"], "got the seed -2"),
        (["--model", "wordmask/large-clip"], "large-clip"),
    ],
)
def test_bad_input_is_one_line(arguments, part, capsys):
    assert run(["selftest", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert part in err
