from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

TRAINING = Path(__file__).parents[2] / "training"
if not TRAINING.exists():
    pytest.skip("the training scripts are not here", allow_module_level=True)


@pytest.fixture(scope="module")
def scripts():
    """The modules collage and vfm, imported as the scripts import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TRAINING))
        yield importlib.import_module("collage"), importlib.import_module("vfm")


@pytest.fixture(scope="module")
def collages(scripts):
    return scripts[0].Collages(50_000_000, count=12)


@pytest.fixture(scope="module")
def model(scripts):
    torch.manual_seed(0)
    return scripts[1].build_model(argparse.Namespace(width=32, blocks=2)).eval()


def test_a_collage_has_seams_where_it_was_cut(collages) -> None:
    images, regions = collages.draw(16, 48)
    assert images.shape == (16, 3, 48, 48)
    assert regions.shape == (16, 48, 48)
    assert images.min() >= 0
    assert images.max() <= 1
    differ = (regions[:, :, 1:] != regions[:, :, :-1])[:, None].expand(-1, 3, -1, -1)
    step = (images[..., 1:] - images[..., :-1]).abs()
    assert step[differ].mean() > 2 * step[~differ].mean()


def test_a_scene_is_shown_as_it_is_rendered(collages) -> None:
    crop = (collages.scenes(1, 96)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    scenes = [(255 * image).round().astype(np.uint8) for image in collages.ring]
    assert any(np.array_equal(crop, s) or np.array_equal(crop, s[:, ::-1]) for s in scenes)


def test_the_uneven_has_two_looks(scripts) -> None:
    rng = np.random.default_rng(0)
    grain = rng.normal(0.5, 0.05, (16, 16, 3)).astype(np.float32)
    mixed = grain.copy()
    mixed[:, 9:] += 0.3
    assert scripts[0].unevenness(mixed) > 3 * scripts[0].unevenness(grain)
    tokens = np.zeros((4, 4, 2), np.float32)
    tokens[..., 0] = 1
    assert scripts[0].disagreement(tokens) == pytest.approx(0)
    tokens[0, 0] = (0, 1)  # the mean is (15, 1) / 16, and the cosine with it 1 / sqrt(226)
    assert scripts[0].disagreement(tokens) == pytest.approx(1 - 226**-0.5)


def test_a_trusted_network_picks_pieces_of_one_look(scripts) -> None:
    # Tokens that say left or right: no piece may then cross the middle.
    collages = scripts[0].Collages(50_000_000, count=4)
    for index in range(4):
        collages.ring[index] = np.zeros((96, 96, 3), np.float32)
        collages.ring[index][:, 48:] = 1
    tokens = np.zeros((32, 32, 2), np.float32)
    tokens[:, :16, 0] = tokens[:, 16:, 1] = 1
    collages.trust(lambda image: tokens)
    assert {float(np.ptp(collages.piece(rare=n % 2 > 0).square)) for n in range(40)} == {0.0}


def test_a_whole_scene_gives_the_forward_of_transformers(scripts, model) -> None:
    pixels = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        theirs = model(pixel_values=pixels).last_hidden_state[:, 1:]
        ours = scripts[1].encode(model, pixels, (0, 0))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_a_patch_belongs_to_the_region_that_has_most_of_it(scripts) -> None:
    regions = torch.zeros(1, 6, 6, dtype=torch.long)
    regions[0, :, 2:] = 1  # two thirds of the left patches are region 0
    assert scripts[1].owners(regions).tolist() == [[0, 1, 0, 1]]


def test_the_loss_wants_cosines_of_one_and_of_none(scripts) -> None:
    owner = torch.tensor([[0, 0, 1]])
    right = torch.tensor([[[1.0, 0], [1, 0], [0, 1]]])
    wrong = torch.tensor([[[1.0, 0], [0, 1], [0, 1]]])
    # The odds are 8 inside and -2 across, which counts twice.
    expected = np.log1p(np.exp(-8)) + 2 * np.log1p(np.exp(-2))
    assert float(scripts[1].seam_loss(right, owner)) == pytest.approx(expected, rel=1e-4)
    assert scripts[1].seam_loss(wrong, owner) > scripts[1].seam_loss(right, owner) + 3


def test_true_parts_raise_a_coarse_map(scripts) -> None:
    scenes = [scripts[1].toybox.render(10**9 + i, 96) for i in range(3)]
    quality = scripts[1].quality(scripts[1].part_tokens(scenes), scenes)
    assert quality["auc"] > 98
    assert quality["miou_after"] > quality["miou_before"] + 3
