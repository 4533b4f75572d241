"""What must hold for every registered refiner, and for the path that maps take through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from places import GOLDEN
from tiny import tiny_clip, tiny_sam, tiny_vfm
from wordmask import Segmenter, WordmaskError
from wordmask.methods import METHODS
from wordmask.refiners import (
    REFINERS,
    Refiner,
    RefinerInput,
    WordStep,
    create_refiner,
    read_refiners,
)
from wordmask.towers.auxiliary import AuxiliaryModels

OF_MAPS = [name for name in sorted(REFINERS) if not issubclass(REFINERS[name], WordStep)]
VARIANTS = [(name, variant) for name in OF_MAPS for variant in REFINERS[name].variants]
METHOD_VARIANTS = [(name, v) for name, method in METHODS.items() for v in method.variants]
FIRST_VARIANTS = [(name, next(iter(method.variants))) for name, method in METHODS.items()]
WORDS = 4
EDGES = [
    one for one in VARIANTS if one[0] in ("lposs", "pamr", "vfm")
]  # find an edge without training
SMALL = {"pamr": {"steps": 3}}  # cheaper and no different


@pytest.fixture(scope="module")
def sources():
    return {"vfm": tiny_vfm(), "sam": tiny_sam(), "diffusion": GOLDEN / "sd_model"}


@pytest.fixture(scope="module")
def networks(sources):
    return AuxiliaryModels(sources)


@pytest.fixture(scope="module")
def clip():
    return tiny_clip(layers=3)


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(1)
    return torch.nn.functional.normalize(torch.randn(WORDS, 48, generator=generator), dim=-1)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=0).repeat(16, axis=1)


def given_picture(height: int = 64, width: int = 96, seed: int = 0) -> RefinerInput:
    image = torch.from_numpy(photo(height, width, seed)).permute(2, 0, 1).float() / 255
    pixels = torch.nn.functional.interpolate(image[None], size=(height // 2, width // 2))[0]
    return RefinerInput(image, (pixels - 0.45) / 0.27)


def maps(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def build(name: str, variant: str) -> Refiner:
    return create_refiner(name, variant, SMALL.get(name))[0]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
class TestEveryRefiner:
    def test_maps_come_and_go_alone(self, networks, name, variant):
        """No map changes another: together, apart and in another order they come out the same."""
        refiner = build(name, variant)
        if name == "sam" and "vote" not in variant:
            return  # a class is prompted with the others' peaks as negatives
        prepared = refiner.prepare(given_picture(), networks)
        scores = maps(WORDS, 4, 6)
        together = refiner.refine(prepared, scores)
        assert together.shape[0] == WORDS
        assert torch.isfinite(together).all()
        alone = torch.cat([refiner.refine(prepared, one[None]) for one in scores])
        assert torch.allclose(together, alone, atol=1e-5)
        assert torch.allclose(refiner.refine(prepared, scores.flip(0)), together.flip(0), atol=1e-5)

    def test_what_is_the_same_everywhere_stays_so(self, networks, name, variant):
        if name == "lposs" and "official" in variant:
            return  # the released code does not divide by what scores of 1 become
        refiner = build(name, variant)
        refined = refiner.refine(
            refiner.prepare(given_picture(), networks), torch.full((2, 4, 6), 0.7)
        )
        assert torch.allclose(refined, torch.full_like(refined, 0.7), atol=1e-3)

    def test_deterministic_and_unchanged_networks(self, networks, name, variant):
        refiner = build(name, variant)
        first = refiner.refine(refiner.prepare(given_picture(), networks), maps(2, 4, 6))
        second = refiner.refine(refiner.prepare(given_picture(), networks), maps(2, 4, 6))
        assert torch.equal(first, second)
        if refiner.network == "none":
            return
        tower = getattr(networks, refiner.network)
        models = tower.modules() if hasattr(tower, "modules") else [tower.model]
        for module in (m for model in models for m in model.modules()):
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert not module.training

    def test_a_picture_is_its_own_whatever_else_is_in_the_batch(
        self, clip, texts, sources, name, variant
    ):
        segmenter = Segmenter.from_pretrained(
            clip,
            "clearclip",
            options={"short_side": 64},
            refine=[(f"{name}:{variant}", SMALL.get(name, {}))],
            networks=sources,
        )
        pictures = [photo(64, 96, seed) for seed in (1, 2)]
        together = segmenter(pictures, texts)
        encoded = segmenter(segmenter.encode(pictures), texts)
        for picture, one, other in zip(pictures, together, encoded, strict=True):
            alone = segmenter(picture, texts)
            assert alone.labels.shape == (64, 96)
            assert alone.scores.shape == (WORDS, 8, 12)
            assert np.array_equal(alone.labels, one.labels)
            assert np.array_equal(alone.labels, other.labels)


@pytest.mark.parametrize(("name", "variant"), EDGES)
def test_rows_and_columns_are_not_swapped(networks, name, variant):
    """A map that is high on the left stays higher there, on pictures that are not square."""
    refiner = build(name, variant)
    scores = torch.zeros(2, 6, 10)
    scores[0, :, :5] = 1
    scores[1, :, 5:] = 1
    picture = RefinerInput(torch.zeros(3, 48, 80), torch.zeros(3, 48, 80))
    picture.image[:, :, 40:] = 1
    picture.pixels[:, :, 40:] = 1
    refined = refiner.refine(refiner.prepare(picture, networks), scores)
    across = refined[0, :, :1].mean() - refined[0, :, -1:].mean()
    down = refined[0, :1].mean() - refined[0, -1:].mean()
    assert across > 2 * abs(down)


@pytest.mark.parametrize("refine", [None, *(f"{name}:{variant}" for name, variant in VARIANTS)])
def test_without_a_background_every_pixel_has_a_word(clip, sources, refine):
    """Whatever the method, its variant and the refiner: random networks are sure of no class."""
    refine = refine and [(refine, SMALL.get(refine.partition(":")[0], {}))]
    base = Segmenter.from_pretrained(clip, refine=refine, networks=sources)
    many = 1 + 0.1 * torch.randn(30, 48, generator=torch.Generator().manual_seed(4))  # much alike
    for method, variant in FIRST_VARIANTS if refine else METHOD_VARIANTS:
        segmenter = base.with_method(method, variant, {"short_side": 32}, base.refiners)
        encoding = segmenter.encode(photo(32, 48))
        for words in (many, many[:2]):
            labels = segmenter(encoding, words, "none").labels
            assert labels.min() >= 1, (method, variant, len(words))


@dataclass(frozen=True)
class Halves(Refiner):
    """A refiner of the tests: counts pictures, and halves all scores on a grid twice as fine."""

    name = "halves"
    title = "Halves"
    variants: ClassVar = {"only": {}}
    shapes: ClassVar[list[tuple[int, ...]]] = []

    def prepare(self, picture, networks):
        self.shapes.append(tuple(picture.image.shape))
        return "prepared"

    def refine(self, prepared, scores):
        assert prepared == "prepared"
        return scores.repeat_interleave(2, 1).repeat_interleave(2, 2) / 2


@pytest.fixture
def halves():
    Halves.shapes.clear()
    return Halves()


def test_a_picture_is_prepared_once(clip, texts, halves):
    segmenter = Segmenter.from_pretrained(clip, "clip", refine=[halves])
    encoding = segmenter.encode(photo(64, 96))
    assert Halves.shapes == [(3, 64, 96)]
    segmenter(encoding, texts)
    segmenter(encoding, texts[:2])
    segmenter.score(encoding, texts).image_scores()
    assert len(Halves.shapes) == 1


def test_refiners_follow_one_another(clip, texts, halves):
    options = {"short_side": None}
    plain = Segmenter.from_pretrained(clip, "clip", options=options)(photo(64, 96), texts)
    twice = plain_with(clip, [halves, halves], options)(photo(64, 96), texts)
    assert np.allclose(twice.scores, plain.scores / 4, atol=1e-6)
    assert np.array_equal(
        plain.labels,
        plain_with(clip, [], options)(photo(64, 96), texts).labels,
    )


def plain_with(clip, refiners, options, **more):
    return Segmenter.from_pretrained(clip, "clip", options=options, refine=refiners, **more)


def test_windows_and_pads_are_joined_before(clip, texts, halves):
    for options in ({"window": 48, "stride": 24}, {"remainder": "pad"}):
        segmenter = plain_with(clip, [halves], {"short_side": 60, **options})
        result = segmenter(photo(64, 96), texts)
        assert result.labels.shape == (64, 96)
        assert result.scores.shape == (WORDS, 7, 11)


def test_refiners_get_a_tensor_without_its_normalisation(clip, texts):
    given = []

    @dataclass(frozen=True)
    class Recorder(Halves):
        """Keeps what it is given."""

        def prepare(self, picture, networks):
            given.append(picture)
            return "prepared"

    segmenter = plain_with(clip, [Recorder()], {})
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    mean, std = (
        torch.tensor(x)[:, None, None] for x in (segmenter.tower.mean, segmenter.tower.std)
    )
    segmenter((image - mean) / std, texts)
    for one, picture in zip(image, given, strict=True):
        assert torch.allclose(picture.image, one, atol=1e-6)
        assert torch.allclose(picture.pixels, (one - mean) / std)


@pytest.mark.parametrize("method", ["clip", "cliper"])
def test_low_memory_gives_the_same_and_keeps_no_network(clip, texts, sources, method):
    def make(low_memory):
        return Segmenter.from_pretrained(
            clip,
            method,
            options={"short_side": 64},
            refine=["vfm", ("pamr", {"steps": 2})],
            networks={"vfm": GOLDEN.parent / "nothing"} if low_memory is None else sources,
            low_memory=bool(low_memory),
        )

    pictures = [photo(64, 96, 1), photo(96, 64, 2)]
    usual, lean = make(False), make(True)
    for one, other in zip(usual(pictures, texts), lean(pictures, texts), strict=True):
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.scores, other.scores)
        assert one.provenance == other.provenance
    assert usual.networks._loaded
    assert not lean.networks._loaded


def test_provenance_names_refiners_and_networks(clip, texts, sources):
    segmenter = Segmenter.from_pretrained(clip, "clip", refine="vfm", networks=sources)
    provenance = segmenter(photo(64, 96), texts).provenance
    (refiner,) = provenance["refiners"]
    assert refiner["name"] == "vfm"
    assert refiner["beta"] == 1.2
    assert provenance["networks"]["vfm"]["source"] == "ViTModel"
    assert len(provenance["networks"]["vfm"]["weights"]) == 24


@pytest.mark.parametrize(
    ("refine", "words"),
    [
        ("pamrr", ["unknown refiner 'pamrr'", "pamr"]),
        ("pamr:fin", ["unknown variant of pamr", "fine"]),
        ([("pamr", {"step": 3})], ["option of pamr", "steps"]),
        ([("pamr", {"steps": "3"})], ["steps", "'3'", "int"]),
        ([3], ["got 3 as a refiner"]),
    ],
)
def test_bad_refiners(refine, words):
    with pytest.raises(WordmaskError) as error:
        read_refiners(refine)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_reading_refiners(halves):
    assert read_refiners(None) == ()
    assert read_refiners("") == ()
    assert read_refiners(halves) == (halves,)
    first, second = read_refiners("pamr:fine, pamr")
    assert (first.steps, second.steps) == (50, 10)


def test_an_unknown_kind_of_network(clip):
    with pytest.raises(WordmaskError, match="unknown kind of auxiliary model 'vmf'"):
        Segmenter.from_pretrained(clip, networks={"vmf": "facebook/dino-vitb8"})
