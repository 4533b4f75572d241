"""Means over nested clusters: by hand, the promises on scores, and pictures of few patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tiny import tiny_clip, tiny_vfm
from wordmask import Segmenter, WordmaskError
from wordmask.refiners import RefinerInput, create_refiner
from wordmask.refiners.dendro import Dendro, Nested
from wordmask.towers.auxiliary import AuxiliaryModels


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def nested(*cuts: list[int], grid: tuple[int, int]) -> Nested:
    rows = [np.arange(max(cut) + 1)[:, None] == np.array(cut) for cut in cuts]
    return Nested(torch.from_numpy(np.concatenate(rows)).float(), len(cuts), grid)


CUTS = ([0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2])
PREPARED = nested(*CUTS, grid=(2, 3))


def probabilities(scores: torch.Tensor, sharpness: float) -> tuple[torch.Tensor, float]:
    apart = scores - scores.mean(0)
    t = sharpness / apart.pow(2).mean().sqrt().item()
    return torch.softmax(t * scores, dim=0), t


@pytest.mark.parametrize("size", [1e-3, 1.0, 70.0])
def test_by_hand(size):
    """The weighted mean of probabilities in every cluster, and their mean over cuts."""
    scores = size * random(4, 2, 3)
    p, t = probabilities(scores.flatten(1), 1.5)
    weight = p.amax(0) ** 2
    q = torch.zeros(4, 6)
    for cut in CUTS:
        for patch in range(6):
            same = [i for i in range(6) if cut[i] == cut[patch]]
            mean = sum(weight[i] * p[:, i] for i in same) / sum(weight[i] for i in same)
            q[:, patch] += mean / len(CUTS)
    out = Dendro(sharpness=1.5, power=2).refine(PREPARED, scores)
    assert out.shape == (4, 2, 3)
    assert torch.allclose(torch.softmax(t * out.flatten(1), dim=0), q, atol=1e-5)


def test_what_comes_back_is_scores():
    refiner, scores = Dendro(), random(5, 2, 3, seed=1)
    out = refiner.refine(PREPARED, scores)
    assert torch.allclose(refiner.refine(PREPARED, 40 * scores), 40 * out, atol=1e-4)
    assert torch.allclose(refiner.refine(PREPARED, scores + 3), out + 3, atol=1e-5)
    alone = nested(list(range(6)), grid=(2, 3))  # every patch a cluster: nothing is averaged
    assert torch.allclose(refiner.refine(alone, scores), scores, atol=1e-5)
    # class maps stay above 0: never below the linear mean of the clusters (power 0: all weigh 1)
    maps = random(3, 2, 3, seed=2) ** 8
    members = PREPARED.members
    linear = maps.flatten(1) @ members.T / members.sum(1) @ members / 2
    found = Dendro(power=0).refine(PREPARED, maps).flatten(1)
    assert (found >= linear - 1e-6).all()
    assert not torch.allclose(found, linear, atol=1e-3)


def test_one_word_is_averaged_linearly():
    scores = random(1, 2, 3)
    members = PREPARED.members
    linear = scores.flatten(1) @ members.T / members.sum(1) @ members / 2
    assert torch.allclose(Dendro().refine(PREPARED, scores).flatten(1), linear, atol=1e-6)


def test_a_sure_patch_names_its_cluster():
    """Three patches lean to word 1, the fourth is sure of word 0; all are one cluster."""
    scores = torch.tensor([[0.9, 0.30, 0.30, 0.30], [0.0, 0.34, 0.34, 0.34]])[:, None]
    one = nested([0, 0, 0, 0], grid=(1, 4))
    assert Dendro(power=8).refine(one, scores).argmax(0).tolist() == [[0, 0, 0, 0]]
    many = scores[:, :, [0] + [1] * 20]
    crowd = nested([0] * 21, grid=(1, 21))
    assert Dendro(power=0).refine(crowd, many).argmax(0).unique().tolist() == [1]


@pytest.mark.parametrize("size", [(8, 8), (8, 16), (24, 8), (40, 64)])
@pytest.mark.parametrize("constant", [False, True])
def test_small_pictures(size, constant):
    """One patch, fewer patches than clusters, and one colour."""
    image = torch.full((3, *size), 0.4) if constant else random(3, *size)
    refiner, networks = Dendro(), AuxiliaryModels({"vfm": tiny_vfm()})
    prepared = refiner.prepare(RefinerInput(image, image), networks)
    assert prepared.grid == (size[0] // 8, size[1] // 8)
    assert torch.equal(prepared.members.sum(0), torch.full_like(prepared.members[0], prepared.cuts))
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
    out = Dendro(sharpness=50).refine(nested(list(range(6)), [0] * 6, grid=(1, 6)), scores)
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
        ({"levels": 0}, "levels=0"),
        ({"levels": 17}, "levels=17"),
        ({"short_side": 0}, "short_side=0"),
        ({"sharpness": 0.0}, r"sharpness=0\.0"),
        ({"power": -1.0}, r"power=-1\.0"),
        ({"spacing": -0.1}, r"spacing=-0\.1"),
        ({"trees": 0}, "trees=0"),
        ({"linkage": "ward"}, "linkage"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(WordmaskError, match=message):
        create_refiner("dendro", None, options)
