from __future__ import annotations

import numpy as np
import pytest

from wordmask import toybox
from wordmask.errors import WordmaskError
from wordmask.toybox import HELD_OUT_LOOKS, HELD_OUT_SHAPES, render

SCENES = [render(seed) for seed in range(60)]


def test_a_seed_gives_one_scene_and_another_seed_another() -> None:
    again = render(3)
    assert np.array_equal(again.image, SCENES[3].image)
    assert np.array_equal(again.parts, SCENES[3].parts)
    assert (again.grounds, again.things) == (SCENES[3].grounds, SCENES[3].things)
    assert not np.array_equal(render(4).image, again.image)


@pytest.mark.parametrize("size", [32, 64, 96, 300])
def test_every_size_renders_in_layout(size: int) -> None:
    scene = render(7, size)
    assert scene.image.shape == (size, size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.parts.shape == (size, size)
    assert scene.image.std() > 5


def test_parts_name_every_region_and_boxes_are_tight() -> None:
    for scene in SCENES:
        count = len(scene.grounds) + len(scene.things)
        assert set(np.unique(scene.parts)) == set(range(count))
        assert 1 <= len(scene.grounds) <= 2
        assert len(scene.things) <= 5
        for part, thing in enumerate(scene.things, len(scene.grounds)):
            left, top, right, bottom = thing.box
            mask = scene.parts == part
            assert mask[top:bottom, left:right].sum() == mask.sum()
            assert mask[top, left:right].any()
            assert mask[top:bottom, right - 1].any()


def test_masks_are_where_the_colours_are() -> None:
    # Plain things far from white and black: their pixels are nearer to their own colour than the
    # pixels around them are. Shading and noise leave a margin of 90 of 255 per channel.
    checked = 0
    for seed in range(200):
        scene = render(seed, 128, things=(1, 1))
        thing = scene.things[0] if scene.things else None
        if thing is None or thing.surface != "plain":
            continue
        mask = scene.parts == len(scene.grounds)
        distance = np.abs(scene.image.astype(int) - toybox.RGB[thing.colour]).max(-1)
        assert np.median(distance[mask]) < 90
        assert np.quantile(distance[mask], 0.8) < np.quantile(distance[~mask], 0.8)
        checked += 1
    assert checked > 10


def test_held_out_pairs_never_appear_unless_asked_for() -> None:
    for scene in [render(seed, 32) for seed in range(400)]:
        for thing in scene.things:
            assert (thing.colour, thing.surface) not in HELD_OUT_LOOKS
            assert (thing.colour, thing.shape) not in HELD_OUT_SHAPES
    for scene in [render(seed, 32, held_out="only") for seed in range(50)]:
        for thing in scene.things:
            assert (thing.colour, thing.surface) in HELD_OUT_LOOKS
            assert (thing.colour, thing.shape) in HELD_OUT_SHAPES
    both = {
        (thing.colour, thing.surface) in HELD_OUT_LOOKS
        for seed in range(100)
        for thing in render(seed, 32, held_out=True).things
    }
    assert both == {True, False}


def test_every_colour_surface_shape_and_ground_is_drawn() -> None:
    scenes = [render(seed, 32) for seed in range(300)]
    things = [thing for scene in scenes for thing in scene.things]
    assert {thing.colour for thing in things} == set(toybox.COLOURS)
    assert {thing.surface for thing in things} == set(toybox.SURFACES)
    assert {thing.shape for thing in things} == set(toybox.SHAPES)
    assert {ground for scene in scenes for ground in scene.grounds} == set(toybox.GROUNDS)
    assert {f"{t.colour} {t.surface}" for t in things} == set(toybox.looks())


def test_looks_split_into_trained_and_held_out() -> None:
    assert len(toybox.looks(True)) == 48
    assert not set(toybox.looks()) & set(toybox.looks("only"))
    assert set(toybox.looks()) | set(toybox.looks("only")) == set(toybox.looks(True))


def test_label_map_by_hand() -> None:
    parts = np.array([[0, 0], [1, 2]], np.uint8)
    things = (
        toybox.Thing("purple", "striped", "ring", (0, 1, 1, 2)),
        toybox.Thing("red", "plain", "square", (1, 1, 2, 2)),
    )
    scene = toybox.Scene(np.zeros((2, 2, 3), np.uint8), parts, ("grass",), things)
    assert toybox.label_map(scene, ["violet hoop", "lawn"]).tolist() == [[2, 2], [1, 0]]
    assert toybox.label_map(scene, ["a red thing", "striped", "thing"]).tolist() == [[0, 0], [2, 1]]
    assert toybox.label_map(scene, [["sea", "grass"], "box"]).tolist() == [[1, 1], [0, 2]]
    # Where several words fit, the first does.
    assert toybox.label_map(scene, ["plain", "red"]).tolist() == [[0, 0], [0, 1]]


def test_choices_label_every_pixel_of_a_scene() -> None:
    for index, scene in enumerate(SCENES):
        words = toybox.choices(scene, 20, seed=index)
        assert len(words) == len(set(words)) == 20
        assert toybox.label_map(scene, words).min() > 0


def test_captions_are_true_of_their_scene() -> None:
    rng = np.random.default_rng(0)
    known = {name for names in (toybox.COLOURS, toybox.SURFACES, toybox.SHAPES, toybox.GROUNDS)
             for said in names.values() for name in said}  # fmt: skip
    texts = set()
    for scene in SCENES:
        facts = [{"ground": ground} for ground in scene.grounds]
        facts += [
            {"colour": t.colour, "surface": t.surface, "shape": t.shape} for t in scene.things
        ]
        for caption in toybox.captions(scene, rng, count=4):
            texts.add(caption)
            # A phrase of a caption starts at an article or a ground's name; what is known of it
            # must hold of one part of the scene.
            groups: list[list[str]] = [[]]
            for word in caption.replace(",", " ").split():
                ground = word in known and "ground" in toybox.parse(word)
                if word in ("a", "an") or ground:
                    groups.append([])
                if word in known:
                    groups[-1].append(word)
                if ground:
                    groups.append([])
            for words in filter(None, groups):
                meaning = toybox.parse(" ".join(words))
                assert len(meaning) == len(words)
                assert any(meaning.items() <= fact.items() for fact in facts), caption
    assert len(texts) > 150


def test_parse_reads_synonyms_and_names_the_unknown() -> None:
    assert toybox.parse("a Violet spotted hoop") == {
        "colour": "purple",
        "surface": "dotted",
        "shape": "ring",
    }
    with pytest.raises(WordmaskError, match=r"toybox word 'gras'.*grass"):
        toybox.parse("gras")


@pytest.mark.parametrize(("size", "things"), [(16, (1, 5)), (64, (3, 2)), (64, (-1, 2))])
def test_bad_requests_are_refused_in_one_line(size: int, things: tuple[int, int]) -> None:
    with pytest.raises(WordmaskError) as error:
        render(0, size, things=things)
    assert "\n" not in str(error.value)
