"""The engine: encodings are used again, memory is bounded, results are those of the library."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from replicas.files import put_into_cache
from tiny import save_tiny_clip
from wordmask import Background, Segmenter, WordmaskError, drawing
from wordmask.app import results
from wordmask.app.engine import BUILT_IN, Engine, Kept
from wordmask.app.examples import examples
from wordmask.app.job import Job, Settings, read_background, read_words
from wordmask.toybox import render
from wordmask.toybox.selftest import TOYBOX_OPTIONS

WORDS = read_words(["brick, bricks", "water", "red striped"])


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(BUILT_IN, offline=True)


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    path = tmp_path_factory.mktemp("app") / "scene.png"
    Image.fromarray(render(4 * 10**9 + 81, 96, things=(4, 5)).image).save(path)
    return Job(str(path), WORDS, Background.none(), Settings(BUILT_IN, "clearclip"))


def test_the_result_is_the_librarys(engine, job):
    segmenter = Segmenter.from_pretrained(BUILT_IN, "clearclip", options=TOYBOX_OPTIONS)
    wanted = segmenter(job.picture, WORDS, Background.none())
    assert np.array_equal(engine.run(job).result.labels, wanted.labels)


def test_words_background_and_thresholds_use_the_encoding_again(engine, job, monkeypatch):
    engine.run(job)
    encoded = []
    monkeypatch.setattr(
        "wordmask.segmenter.Segmenter.encode", lambda *_: encoded.append(1) or pytest.fail("again")
    )
    changed = dataclasses.replace(job, words=read_words(["brick", "sand"]))
    assert engine.is_encoded(changed)
    assert engine.run(changed).result.names == ("brick", "sand")
    engine.run(dataclasses.replace(changed, background=Background.threshold(0.2)))
    settings = dataclasses.replace(job.settings, options=(("logit_scale", "10"),))
    engine.run(dataclasses.replace(job, settings=settings))
    assert not encoded
    other = dataclasses.replace(job, settings=Settings(BUILT_IN, "clip"))
    assert not engine.is_encoded(other)


def test_kept_values_are_bounded_and_the_oldest_go_first():
    kept = Kept(3 * 400)
    for i in range(5):
        kept.get(i, lambda: torch.zeros(100))
    assert [i in kept for i in range(5)] == [False, False, True, True, True]
    assert kept.bytes == 1200
    kept.get(2, lambda: pytest.fail("is kept"))
    kept.get(5, lambda: np.zeros(100, np.float32))
    assert 2 in kept
    assert 3 not in kept
    assert kept.get(6, lambda: np.zeros(1000)).nbytes == 8000  # larger than all: alone
    assert kept.bytes == 8000


def test_legend_has_the_colours_of_the_overlay(engine, job):
    outcome = engine.run(job)
    html = results.legend(outcome)
    painted = np.asarray(results.overlay(outcome.result, 1.0)).reshape(-1, 3)
    colours = {tuple(x) for x in painted.tolist()}
    for i, name in enumerate(WORDS.names, 1):
        colour = tuple(drawing.palette(3)[i].tolist())
        assert f'data-name="{name}"' in html
        assert f"rgb({colour[0]},{colour[1]},{colour[2]})" in html
        assert colour in colours or not outcome.result.mask(name).any()


def test_scores_at_a_pixel_are_probabilities_of_its_label(engine, job):
    alone = dataclasses.replace(job, words=read_words(["brick", "water", "red striped"]))
    outcome = engine.run(alone)
    x, y = 40, 90
    found = results.scores_at(outcome.scored, x, y)
    assert sum(value for _, value in found) == pytest.approx(1, abs=1e-5)
    label = int(outcome.result.labels[y, x])
    assert found[0][0] == outcome.result.names[label - 1]


def test_shown_pictures_and_their_pixels(engine, job):
    assert results.shown_size(96, 96) == (576, 576)
    assert results.shown_size(3000, 4000) == (960, 1280)
    result = engine.run(job).result
    assert results.at_pixel(result, 575, 0) == (95, 0)
    cut = np.asarray(results.cut_out(result, "brick"))
    assert np.array_equal(cut[..., 3] > 0, result.mask("brick"))
    assert results.heat_map(result, "water").width == 576


def test_names_in_the_page_are_escaped(engine, job):
    bad = dataclasses.replace(job, words=read_words(["<b>x"]))
    outcome = engine.run(bad)
    assert "<b>x" not in results.legend(outcome) + results.place(outcome, 1, 1)


def test_pictures_that_cannot_be_used(engine, tmp_path):
    pdf = tmp_path / "paper.pdf"
    pdf.write_bytes(b"%PDF-1.7\n%%EOF")
    with pytest.raises(WordmaskError, match=r"cannot read paper\.pdf"):
        engine.picture(str(pdf))
    huge = tmp_path / "huge.png"
    Image.new("1", (9000, 9000)).save(huge)
    with pytest.raises(WordmaskError, match=r"^cannot read huge\.png: .* make it smaller$"):
        engine.picture(str(huge))
    with pytest.raises(WordmaskError, match="no picture yet"):
        engine.picture("")


def test_many_classes_have_numbers_in_the_picture_and_the_legend(engine, job):
    names = [
        f"{colour} plain"
        for colour in ["red", "blue", "green", "yellow", "orange", "purple", "pink"]
    ]
    names += ["brick", "water", "grass", "sand", "snow", "wood", "gravel"]
    outcome = engine.run(dataclasses.replace(job, words=read_words(names)))
    found, many = outcome.result.labels, outcome.result.labels.copy()
    assert len(outcome.result.found) <= 10
    assert '">1</b>' not in results.legend(outcome)
    many[: len(names) * 4] = np.repeat(np.arange(1, 15), 4)[:, None]  # stripes of all
    result = dataclasses.replace(outcome.result, labels=many.astype(found.dtype))
    assert '">14</b>' in results.legend(dataclasses.replace(outcome, result=result))
    plain = results.overlay(result, 1.0, numbers=False)
    assert not np.array_equal(results.overlay(result, 1.0), plain)


def test_a_clip_in_the_hubs_cache_is_taken_and_its_examples_run(tmp_path, monkeypatch):
    save_tiny_clip(tmp_path / "clip")
    put_into_cache(tmp_path / "hub", "owner/clip", tmp_path / "clip", main="a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    engine = Engine(offline=True)
    assert engine.model == "owner/clip"
    assert engine.models == ["owner/clip", BUILT_IN]
    for example in examples(engine.model, tmp_path):
        words, settings = read_words(example.words), Settings(engine.model, "clip")
        rule = read_background(example.background, [], None, words)
        outcome = engine.run(Job(example.picture, words, rule, settings))
        assert outcome.result.labels.shape == np.asarray(Image.open(example.picture)).shape[:2]
        assert words.names[0] in results.legend(outcome)
