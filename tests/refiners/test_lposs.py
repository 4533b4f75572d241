"""LPOSS: the released code's numbers, the equations by hand, and pictures of few patches."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from places import GOLDEN
from tiny import tiny_clip, tiny_vfm
from wordmask import Segmenter, WordmaskError
from wordmask.refiners.base import RefinerInput, create_refiner
from wordmask.refiners.lposs import PixelGraph, lab
from wordmask.towers.auxiliary import AuxiliaryModels

COLOURS = 5e-5  # rounding in Lab, divided by tau = 0.01
TOLERANCE = 1e-5  # of the largest value, as scores grow up to 20 times
SMALL = {"whole": {"window": 0}, "slide": {"window": 48, "stride": 24}}


@pytest.fixture(params=SMALL)
def released(request):
    """The golden tensors, the refiner with their parameters, and what it prepared."""
    folder = GOLDEN / "lposs" / request.param
    golden = load_file(folder / "tensors.safetensors")
    meta = json.loads((folder / "meta.json").read_text())["parameters"]
    options = {"short_side": None, "neighbours": meta["k"], **SMALL[request.param]}
    refiner, _ = create_refiner("lposs", "official-plus", options)
    features = iter(golden["dino_features"].permute(0, 3, 1, 2)[:, None])  # one window at a time
    networks = SimpleNamespace(vfm=SimpleNamespace(features=lambda image, facet: next(features)))
    prepared = refiner.prepare(RefinerInput(golden["image"][0], golden["image"][0]), networks)
    windows = [[w.top, w.left, w.top + w.height, w.left + w.width] for w in prepared.windows]
    assert windows == meta["windows"]
    return SimpleNamespace(golden=golden, refiner=refiner, prepared=prepared, meta=meta)


def close(ours: torch.Tensor, golden: torch.Tensor, tolerance: float) -> None:
    assert ours.shape == golden.shape
    difference = ((ours - golden).abs().max() / golden.abs().max()).item()
    print(f"{difference:.1e}")
    assert difference <= tolerance, f"differs by {difference:.1e}"


def test_golden_patches(released):
    golden, refiner, prepared = released.golden, released.refiner, released.prepared
    if "graph" in golden:
        close(prepared.patches, golden["graph"], TOLERANCE)
    else:
        close(prepared.patches.sum(1), golden["graph_row_sums"], TOLERANCE)
        joined = (prepared.patches != 0).sum(1).int()
        assert torch.equal(joined, golden["graph_entries_per_row"])
    close(refiner.propagate(prepared, golden["scores_in"].T), golden["scores_out"].T, TOLERANCE)


def test_golden_maps(released):
    """From the released scores of the patches to the maps and labels of both, at full size."""
    golden, prepared = released.golden, released.prepared
    scores = released.refiner.propagate(prepared, golden["scores_in"].T)
    row_sums = prepared.pixels.times(torch.ones(1, 80, 112))[0]
    close(row_sums, golden["pixel_graph_row_sums"], COLOURS)
    without = SimpleNamespace(**{**vars(prepared), "pixels": None})
    for graphs, key, name in (
        (without, "pixel_scores_in", "lposs"),
        (prepared, "pixel_scores_out", "lposs_plus"),
    ):
        maps = released.refiner.join(graphs, scores)
        at_pixels = F.interpolate(maps[None], size=(80, 112), mode="bilinear")[0]
        close(at_pixels[[0, 4]], golden[key], COLOURS)
        maps = torch.cat([maps[:3].amax(0, keepdim=True), maps[3:]])
        maps = F.interpolate(maps[None], size=released.meta["ori_shape"], mode="bilinear")[0]
        close(maps, golden[name], COLOURS)
        assert (maps.argmax(0) != golden[name].argmax(0)).sum() <= 2  # ties


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def networks():
    return AuxiliaryModels({"vfm": tiny_vfm()})


def prepare(image, networks, variant=None, **options):
    refiner, _ = create_refiner("lposs", variant, options)
    return refiner, refiner.prepare(RefinerInput(image, image), networks)


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({"window": 0}, 1e-5), ({"window": 48, "stride": 24}, 0.1)],  # half a patch at their edges
)
def test_maps_are_read_at_the_centres_of_patches(networks, options, tolerance):
    """Where neighbours do not count a map is only resized, also through windows that overlap."""
    ramps = torch.stack(
        torch.meshgrid(torch.linspace(0, 1, 4), torch.linspace(0, 1, 6), indexing="ij")
    )
    refiner, prepared = prepare(noise(3, 64, 96), networks, alpha=1e-6, **options)
    found = refiner.refine(prepared, ramps)
    assert found.shape[1:] == ((64, 96) if options["window"] else prepared.grid)
    expected = F.interpolate(ramps[None], size=found.shape[1:], mode="bilinear")[0]
    assert (found - expected).abs().max() < tolerance


def test_solved_exactly_and_divided_by_what_ones_become(networks):
    """Against torch's dense solver; as released it stops before that."""
    refiner, prepared = prepare(noise(3, 64, 96), networks, neighbours=20)
    scores = torch.randn(3, len(prepared.centres), generator=torch.Generator().manual_seed(2))
    system = torch.eye(len(prepared.centres)) - 0.95 * prepared.patches
    exact = torch.linalg.solve(system, torch.cat([scores, torch.ones_like(scores[:1])]).T).T
    mean = exact[:3] / exact[3:]
    assert torch.allclose(refiner.propagate(prepared, scores), mean, atol=1e-5)
    early, same = prepare(noise(3, 64, 96), networks, "official", window=0, neighbours=20)
    away = (early.propagate(same, scores) - exact[:3]).abs().max() / exact[:3].abs().max()
    assert 1e-5 < away < 2e-2


@pytest.mark.parametrize("variant", ["paper", "plus", "official", "official-plus"])
def test_scores_of_any_size_are_spread_alike(networks, variant):
    """Probabilities of unlikely classes are tiny and their squares are 0; a map may be all 0."""
    refiner, prepared = prepare(noise(3, 32, 48), networks, variant)
    scores = noise(1, 4, 6)
    found = refiner.refine(
        prepared, torch.cat([scores, scores * 1e-22, scores * 1e-30, scores * 0])
    )
    for i, scale in enumerate((1e22, 1e30), 1):
        assert torch.allclose(found[i] * scale, found[0], rtol=1e-3)
    assert not found[3].any()


def test_pixels_against_a_dense_graph():
    """Weights of a small picture, whose sides are shorter than the radius, pair by pair."""
    colours = noise(3, 4, 5) / 50
    flat = colours.flatten(1).T
    places = torch.cartesian_prod(torch.arange(4), torch.arange(5))
    near = (places[:, None] - places).abs().amax(-1) <= 3
    weights = torch.exp(-torch.cdist(flat, flat) / 0.01) * near * (1 - torch.eye(20))
    root = weights.sum(1).rsqrt()
    dense = weights * root * root[:, None]
    maps = noise(2, 4, 5, seed=1)
    found = PixelGraph(colours, 3, 0.01).times(maps)
    assert torch.allclose(found.flatten(1), maps.flatten(1) @ dense, atol=1e-5)


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((1.0, 1.0, 1.0), (1.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((1.0, 0.0, 0.0), (0.53241, 80.09 / 128, 67.20 / 128)),
        ((0.0, 0.0, 1.0), (0.32297, 79.19 / 128, -107.86 / 128)),
    ],
)
def test_lab_of_known_colours(colour, expected):
    found = lab(torch.tensor(colour)[:, None, None])[:, 0, 0]
    assert torch.allclose(found, torch.tensor(expected), atol=2e-4)


@pytest.mark.parametrize("variant", ["paper", "plus", "official", "official-plus"])
def test_a_picture_of_one_patch_and_one_of_few(networks, variant):
    """One patch has no neighbour and keeps its scores; 400 neighbours of 4 patches are all 4."""
    patch = networks.vfm.patch
    image, scores = torch.full((3, patch, patch), 0.5), noise(2, 1, 1)
    refiner, prepared = prepare(image, networks, variant, radius=1)
    assert prepared.patches.tolist() == [[0.0]]
    found = refiner.propagate(prepared, scores.flatten(1))
    assert torch.allclose(found, scores.flatten(1), atol=1e-6)
    assert torch.isfinite(refiner.refine(prepared, scores)).all()
    refiner, prepared = prepare(noise(3, 2 * patch, 2 * patch), networks, variant)
    assert prepared.patches.shape == (4, 4)
    assert torch.isfinite(refiner.refine(prepared, noise(3, 5, 4))).all()


def test_a_picture_of_one_pixel():
    """It has no neighbour."""
    graph = PixelGraph(noise(3, 1, 1), 6, 0.01)
    assert graph.times(torch.ones(1, 1, 1)).tolist() == [[[0.0]]]


def test_a_picture_is_prepared_once_whatever_the_words(networks):
    options = {"short_side": 64}
    segmenter = Segmenter.from_pretrained(
        tiny_clip(), "sclip", options=options, refine="lposs", networks=networks.sources
    )
    encoding = segmenter.encode((noise(64, 96, 3) * 255).byte().numpy())
    (before,) = encoding.prepared.values()
    for words in (torch.eye(3, 48), torch.eye(5, 48)):
        assert segmenter(encoding, words, "none").labels.shape == (64, 96)
    assert list(encoding.prepared.values()) == [before]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"neighbours": 0}, "neighbours=0"),
        ({"short_side": 0}, "short_side=0"),
        ({"iterations": 0}, "iterations=0"),
        ({"alpha": 1.0}, "alpha=1.0"),
        ({"tau": 0.0}, "tau=0.0"),
        ({"window": 224, "stride": 300}, "stride=300"),
        ({"window": 224}, "stride=0"),
        ({"facet": "value"}, '"values"'),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(WordmaskError) as caught:
        create_refiner("lposs", None, options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
