from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

TRAINING = Path(__file__).parents[2] / "training"
if not TRAINING.exists():
    pytest.skip("the training scripts are not here", allow_module_level=True)
pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def diffusion():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TRAINING))
        yield importlib.import_module("diffusion")


@pytest.fixture(scope="module")
def networks(diffusion):
    return diffusion.Networks(0, torch.device("cpu"))


def test_the_unet_has_the_attentions_that_cliper_reads(networks) -> None:
    assert len(networks.unet.up_blocks) == 4
    assert len(networks.unet.up_blocks[3].attentions) >= 2
    assert hasattr(networks.unet.down_blocks[0].attentions[0].transformer_blocks[0], "attn1")


def test_maps_are_the_attention_of_the_unet(diffusion, networks) -> None:
    scene = diffusion.toybox.render(10**9, 48)
    maps = diffusion.Maps(networks.unet)
    recorded = diffusion.attention_maps(networks, networks.unet, scene, 0)
    ours = torch.cat([logits[0].softmax(-1) for logits in maps.logits(0).flip(0)])
    torch.testing.assert_close(ours, recorded, atol=1e-5, rtol=1e-4)
    assert recorded.shape[1:] == (24 * 24, 24 * 24)


def test_sharp_maps_have_rows_of_one_and_no_small_entries(diffusion) -> None:
    maps = torch.tensor([[[0.9, 0.1], [0.05, 0.95]]])
    # Columns by their maximum: [[1, .105], [.056, 1]]; what is under 0.1 goes.
    expected = torch.tensor([[[1, 0.1 / 0.95], [0, 1]]])
    expected = expected / expected.sum(2, keepdim=True)
    torch.testing.assert_close(diffusion.sharpen(maps, 0.1), expected, atol=1e-4, rtol=0)


def test_the_chain_is_applied_from_right_to_left(diffusion) -> None:
    swap = torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    copy = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    scores = torch.arange(4.0).view(1, 2, 2)
    found = diffusion.compensate(torch.stack([swap, copy]), scores, 2)
    assert found.flatten().tolist() == [0, 0, 2, 3]  # copy first, then swap
    found = diffusion.compensate(torch.stack([copy, swap]), scores, 2)
    assert found.flatten().tolist() == [1, 1, 2, 3]


def test_the_seam_loss_falls_as_attention_stays_inside(diffusion) -> None:
    regions = torch.zeros(1, 4, 4, dtype=torch.long)
    regions[0, :, 2:] = 1
    owner = diffusion.owners(regions)
    assert owner.tolist() == [[0, 1, 0, 1]]
    same = (owner[0, :, None] == owner[0, None]).float()
    gains = [diffusion.shares((gain * same)[None, None, None]) for gain in (0, 2, 6)]
    losses = [float(diffusion.seam_loss(share, owner)) for share in gains]
    assert losses[0] > losses[1] > losses[2]
    # Gain 6: shares of 1 inside and e^-6 across.
    expected = np.log1p(np.exp(-2 * 5)) + 2 * np.log1p(np.exp(2 * (-6 + 5)))
    assert losses[2] == pytest.approx(expected, rel=1e-4)


def test_time_steps_of_collages_lie_around_the_one_that_is_read(diffusion) -> None:
    torch.manual_seed(0)
    times = diffusion.draw_steps(500, 500, 2.0)
    assert times[:500].min() < 50
    assert times[:500].max() > 900
    assert times[500:].min() >= 61
    assert times[500:].max() <= 141


def test_standard_latents(diffusion, networks) -> None:
    scenes = [diffusion.toybox.render(10**9 + i, 48) for i in range(4)]
    images = diffusion.to_input(scenes, torch.device("cpu"))
    networks.standardise(images)
    latents = networks.encode(images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(4), atol=0.01, rtol=0)
    torch.testing.assert_close(latents.std(1), torch.ones(4), atol=0.01, rtol=0)


def test_the_chain_loss_is_what_the_chain_lets_out(diffusion) -> None:
    owner = torch.tensor([[0, 1, 0, 1]])
    same = owner[0, :, None] == owner[0, None]
    logits = torch.where(same, 0.0, -1.0).expand(2, 1, 2, 4, 4)  # two layers of two heads
    share = diffusion.shares(logits)
    matrices = diffusion.sharpen(logits[:, 0].flatten(0, 1).softmax(-1), 0.1)
    maps = torch.nn.functional.one_hot(owner[0]).float().T.view(2, 2, 2)
    kept = diffusion.compensate(matrices, maps, 2)[0, 0, 0]
    assert float(diffusion.chain_loss(share, owner)) == pytest.approx(-float(kept.log()), abs=1e-2)
    cut = diffusion.shares(torch.where(same, 0.0, -5.0).expand(2, 1, 2, 4, 4))
    assert diffusion.chain_loss(cut, owner) < 1e-3
