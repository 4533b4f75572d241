"""Means over nested clusters: by hand, the promises on scores, and pictures of few patches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tiny import tiny_clip, tiny_vfm
from wordmask import Segmenter, WordmaskError
from wordmask.clusters import all_clusters, cluster_tree
from wordmask.refiners import RefinerInput, create_refiner
from wordmask.refiners.dendro import Dendro, Nested
from wordmask.towers.auxiliary import AuxiliaryModels


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def nested(*joins: list[list[float]], grid: tuple[int, int]) -> Nested:
    return Nested(tuple(all_clusters(np.array(one).reshape(-1, 4)) for one in joins), grid)


# patches 0 and 1 are joined at 1, 2 and 3 at 2, these at 3, 4 and 5 at 4, all at 5
JOINS = [[0, 1, 1, 2], [2, 3, 2, 2], [6, 7, 3, 4], [4, 5, 4, 2], [8, 9, 5, 6]]
# the clusters that a patch is in, and from and to which height, of 5
LIVES = {
    0: [([0], 0, 1), ([0, 1], 1, 3), ([0, 1, 2, 3], 3, 5)],
    1: [([1], 0, 1), ([0, 1], 1, 3), ([0, 1, 2, 3], 3, 5)],
    2: [([2], 0, 2), ([2, 3], 2, 3), ([0, 1, 2, 3], 3, 5)],
    3: [([3], 0, 2), ([2, 3], 2, 3), ([0, 1, 2, 3], 3, 5)],
    4: [([4], 0, 4), ([4, 5], 4, 5)],
    5: [([5], 0, 4), ([4, 5], 4, 5)],
}
# the same by the number of clusters that there are while it lasts
NUMBERS = {
    0: [([0], 6, 5), ([0, 1], 5, 3), ([0, 1, 2, 3], 3, 1)],
    1: [([1], 6, 5), ([0, 1], 5, 3), ([0, 1, 2, 3], 3, 1)],
    2: [([2], 6, 4), ([2, 3], 4, 3), ([0, 1, 2, 3], 3, 1)],
    3: [([3], 6, 4), ([2, 3], 4, 3), ([0, 1, 2, 3], 3, 1)],
    4: [([4], 6, 2), ([4, 5], 2, 1)],
    5: [([5], 6, 2), ([4, 5], 2, 1)],
}
PREPARED = nested(JOINS, grid=(2, 3))


def one_cluster(patches: int) -> Nested:
    """All joins at 0."""
    joins = [[0, 1, 0, 2], *([i, patches + i - 2, 0, i + 1] for i in range(2, patches))]
    return nested(joins, grid=(1, patches))


def shares(patch: int, floor: float = 0.3) -> list[tuple[list[int], float]]:
    """The clusters of a patch, and the share of each in the scale of heights."""
    whole = math.log((1 + floor) / floor)
    return [
        (patches, math.log((high / 5 + floor) / (low / 5 + floor)) / whole)
        for patches, low, high in LIVES[patch]
    ]


def mean(p: torch.Tensor, patches: list[int], power: float, size: float) -> torch.Tensor:
    """The mean of p (R, 6) in a cluster: that of its two parts, weighted."""
    parts = {(0, 1): ([0], [1]), (2, 3): ([2], [3]), (0, 1, 2, 3): ([0, 1], [2, 3])}
    parts[4, 5] = [4], [5]
    if len(patches) == 1:
        return p[:, patches[0]]
    found = [(mean(p, part, power, size), len(part)) for part in parts[tuple(patches)]]
    weights = [one.max() ** power * count**size for one, count in found]
    return sum(w * one for w, (one, _) in zip(weights, found, strict=True)) / sum(weights)


def linear(maps: torch.Tensor) -> torch.Tensor:
    """The mean of maps (R, h, w) over clusters, all patches alike, (R, L)."""
    flat = maps.flatten(1)
    means = [sum(x * flat[:, c].mean(1) for c, x in shares(i)) for i in range(6)]
    return torch.stack(means, dim=1)


def probabilities(scores: torch.Tensor, sharpness: float) -> tuple[torch.Tensor, float]:
    apart = scores - scores.mean(0)
    t = sharpness / apart.pow(2).mean().sqrt().item()
    return torch.softmax(t * scores, dim=0), t


@pytest.mark.parametrize("size", [1e-3, 1.0, 70.0])
def test_by_hand(size):
    """The mean of probabilities in every cluster, and that of clusters by how long they last."""
    scores = size * random(4, 2, 3)
    p, t = probabilities(scores.flatten(1), 1.5)
    q = torch.zeros(4, 6)
    for patch in range(6):
        q[:, patch] = sum(share * mean(p, same, 2, 0.5) for same, share in shares(patch, 0.4))
    out = Dendro(sharpness=1.5, power=2, size=0.5, floor=0.4).refine(PREPARED, scores)
    assert out.shape == (4, 2, 3)
    assert torch.allclose(torch.softmax(t * out.flatten(1), dim=0), q, atol=1e-5)


def test_lasting_by_the_number_of_clusters():
    scores = random(4, 2, 3)
    p, t = probabilities(scores.flatten(1), 1)
    q = torch.zeros(4, 6)
    for patch, lives in NUMBERS.items():
        for same, high, low in lives:
            share = math.log((high + 0.5) / (low + 0.5)) / math.log(6.5 / 1.5)
            q[:, patch] += share * mean(p, same, 2, 0.75)
    refiner = Dendro(scale="number")
    out = refiner.refine(PREPARED, scores)
    assert torch.allclose(torch.softmax(t * out.flatten(1), dim=0), q, atol=1e-5)
    one = scores[:, :1, :1]
    assert torch.allclose(refiner.refine(nested([], grid=(1, 1)), one), one)


def test_what_comes_back_is_scores():
    refiner, scores = Dendro(), random(5, 2, 3, seed=1)
    out = refiner.refine(PREPARED, scores)
    assert torch.allclose(refiner.refine(PREPARED, 40 * scores), 40 * out, atol=1e-4)
    assert torch.allclose(refiner.refine(PREPARED, scores + 3), out + 3, atol=1e-5)
    # class maps stay above 0: never below the linear mean of the clusters (all weigh 1)
    maps = random(3, 2, 3, seed=2) ** 8
    found = Dendro(power=0, size=1).refine(PREPARED, maps).flatten(1)
    assert (found >= linear(maps) - 1e-6).all()
    assert not torch.allclose(found, linear(maps), atol=1e-3)


def test_patches_that_are_alike_to_none_keep_their_scores():
    scores = random(5, 1, 3, seed=1)
    apart = nested([[0, 1, 1, 2], [2, 3, 1, 3]], grid=(1, 3))
    assert torch.allclose(Dendro().refine(apart, scores), scores, atol=1e-5)


def test_one_word_is_averaged_linearly():
    scores = random(1, 2, 3)
    found = Dendro(size=1).refine(PREPARED, scores).flatten(1)
    assert torch.allclose(found, linear(scores), atol=1e-6)


def test_a_small_distinct_thing_keeps_its_word():
    """Two patches of 64, unlike all others, after a map that is surer of what surrounds them."""
    features = torch.zeros(8, 8, 8)
    features[0] = 1
    features[:, 3, 3:5] = torch.tensor([0.3, 1, 0, 0, 0, 0, 0, 0])[:, None]
    features += 0.1 * (random(8, 8, 8) - 0.5)
    scores = torch.zeros(2, 8, 8)
    scores[0], scores[:, 3, 3:5] = 1, torch.tensor([0.3, 0.5])[:, None]
    trees = tuple(all_clusters(cluster_tree(features, x, "weighted")) for x in (0.15, 0.3, 0.6))
    found = Dendro().refine(Nested(trees, (8, 8)), scores).argmax(0)
    assert found[3, 3:5].tolist() == [1, 1]
    assert found.sum() == 2


def test_a_sure_patch_names_its_cluster():
    """Three patches lean to word 1, the fourth is sure of word 0; all are one cluster."""
    scores = torch.tensor([[0.9, 0.30, 0.30, 0.30], [0.0, 0.34, 0.34, 0.34]])[:, None]
    assert Dendro(power=8).refine(one_cluster(4), scores).argmax(0).tolist() == [[0, 0, 0, 0]]
    crowd = scores[:, :, [0] + [1] * 20]
    assert Dendro(power=0).refine(one_cluster(21), crowd).argmax(0).unique().tolist() == [1]


@pytest.mark.parametrize("size", [(8, 8), (8, 16), (24, 8), (40, 64)])
@pytest.mark.parametrize("constant", [False, True])
def test_small_pictures(size, constant):
    """One patch, fewer patches than clusters, and one colour."""
    image = torch.full((3, *size), 0.4) if constant else random(3, *size)
    refiner, networks = Dendro(), AuxiliaryModels({"vfm": tiny_vfm()})
    prepared = refiner.prepare(RefinerInput(image, image), networks)
    assert prepared.grid == (size[0] // 8, size[1] // 8)
    assert [len(tree.parent) for tree in prepared.trees] == [2 * math.prod(prepared.grid) - 1] * 3
    scores = random(150, 3, 2)
    out = refiner.refine(prepared, scores)
    assert out.shape == (150, *prepared.grid)
    assert torch.isfinite(out).all()
    assert torch.isfinite(refiner.refine(prepared, torch.zeros(2, 3, 2))).all()
    if prepared.grid == (1, 1):
        mean = torch.nn.functional.interpolate(scores[None], size=(1, 1), mode="bilinear")[0]
        assert torch.allclose(out, mean, atol=1e-5)


def test_one_sure_patch_among_many_does_not_overflow():
    scores = torch.zeros(150, 1, 6)
    scores[3, 0, 2] = 1e4
    prepared = Nested(PREPARED.trees, (1, 6))
    out = Dendro(sharpness=50).refine(prepared, scores)
    assert torch.isfinite(out).all()
    assert out[:, 0, 2].argmax() == 3


@pytest.mark.parametrize("method", ["clip", "cliper", "cliptrase", "clip_surgery"])
def test_after_any_method_with_thresholds(method):
    """Refined scores are of the size of the method's, so its thresholds keep their meaning."""
    networks = {"vfm": tiny_vfm()}
    picture = (random(48, 64, 3).numpy() * 255).astype(np.uint8)
    plain = Segmenter.from_pretrained(tiny_clip(), method, options={"short_side": 48})
    texts = torch.nn.functional.normalize(random(3, 48) - 0.5, dim=-1)
    refined = Segmenter.from_pretrained(
        tiny_clip(), method, options={"short_side": 48}, refine="dendro", networks=networks
    )
    before, after = plain(picture, texts).scores, refined(picture, texts).scores
    assert after.shape == before.shape
    assert np.abs(after.mean() - before.mean()) < 0.5 * np.ptp(before) + 1e-6
    assert np.ptp(after) <= 1.1 * np.ptp(before) + 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"floor": 0.0}, r"floor=0\.0"),
        ({"short_side": 0}, "short_side=0"),
        ({"sharpness": 0.0}, r"sharpness=0\.0"),
        ({"power": -1.0}, r"power=-1\.0"),
        ({"size": -1.0}, r"size=-1\.0"),
        ({"spacing": -0.1}, r"spacing=-0\.1"),
        ({"trees": 0}, "trees=0"),
        ({"linkage": "ward"}, "linkage"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(WordmaskError, match=message):
        create_refiner("dendro", None, options)


@pytest.mark.parametrize("variant", ["nested", "large"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_extreme_options(variant, dtype):
    """Scores in half precision are averaged in float32; no weight of a cluster becomes 0."""
    refiner, _ = create_refiner("dendro", variant, {"power": 30.0})
    for prepared, grid in ((nested([], grid=(1, 1)), (1, 1)), (PREPARED, (2, 3))):
        for scores in (torch.zeros(150, *grid), 1e4 * random(150, *grid)):
            found = refiner.refine(prepared, scores.to(dtype))
            assert torch.isfinite(found).all()
            assert torch.equal(found, refiner.refine(prepared, scores.to(dtype).float()))
