from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wordmask import toybox

SCRIPT = Path(__file__).parents[2] / "training" / "clip.py"
if not SCRIPT.exists():
    pytest.skip("the training scripts are not here", allow_module_level=True)
_spec = importlib.util.spec_from_file_location("training_clip", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
clip = importlib.util.module_from_spec(_spec)
sys.modules["training_clip"] = clip
_spec.loader.exec_module(clip)


@pytest.fixture(scope="module")
def tokenizer():
    return clip.build_tokenizer(32)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    options = argparse.Namespace(width=32, blocks=8, text_width=32, text_blocks=1, joint=16)
    return clip.build_model(options, tokenizer).eval()


def test_every_toybox_word_is_one_token(tokenizer) -> None:
    for names in clip.SYNONYMS:
        for said in names.values():
            for name in said:
                assert len(tokenizer(name)["input_ids"]) == 3, name


def test_views_of_all_patches_equal_the_transformers_forward(model) -> None:
    image = torch.from_numpy(toybox.render(5, clip.SIZE).image.copy())
    pixels = (image.permute(2, 0, 1)[None].float() / 255 - clip.MEAN) / clip.STD
    with torch.no_grad():
        theirs = model.get_image_features(pixel_values=pixels).pooler_output
        kept = torch.arange(clip.GRID**2)[None]
        ours = clip.encode_views(model, clip.patchify(image[None]), kept, "token", False)
    expected = torch.nn.functional.normalize(theirs, dim=-1)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_a_blind_class_token_sees_patches_in_the_last_block_alone(model) -> None:
    patches = torch.randint(0, 255, (2, 4, 192), dtype=torch.uint8)
    kept = torch.arange(4).expand(2, -1)
    last = model.vision_model.encoder.layers[-1].self_attn
    saved = last.v_proj.weight.detach().clone(), last.v_proj.bias.detach().clone()
    with torch.no_grad():
        last.v_proj.weight.zero_()
        blind = clip.encode_views(model, patches, kept, "token", True)
        seeing = clip.encode_views(model, patches, kept, "token", False)
        last.v_proj.weight.copy_(saved[0])
    torch.testing.assert_close(blind[0], blind[1])
    assert (seeing[0] - seeing[1]).abs().max() > 1e-4


def test_held_out_pairs_are_never_prompted() -> None:
    bank = clip.Bank(0)
    table = np.stack([clip.facts_of(toybox.render(seed, 96)) for seed in range(40)])
    for _ in range(20):
        texts, clauses, weight = bank.draw(table)
        assert len(texts) == len(clauses) == len(weight)
        for colour, surface, shape, _ in clauses.reshape(-1, 4):
            names = [clip.NAMES[kind][index] if index >= 0 else None
                     for kind, index in enumerate((colour, surface, shape))]  # fmt: skip
            assert (names[0], names[1]) not in toybox.HELD_OUT_LOOKS
            assert (names[0], names[2]) not in toybox.HELD_OUT_SHAPES


def test_truth_by_hand() -> None:
    # One scene: ground 2 (200 pixels), a thing (0, 1, 3) with 60, a thing (0, 2, 4) with 3.
    table = torch.full((1, clip.PARTS, 4), -1, dtype=torch.int8)
    table[0, 0, 3] = 2
    table[0, 1, :3] = torch.tensor([0, 1, 3])
    table[0, 2, :3] = torch.tensor([0, 2, 4])
    shown = torch.tensor([[200, 60, 3, 0, 0, 0, 0]])
    whole = torch.tensor([[200, 60, 300, 0, 0, 0, 0]])
    asked = [(-1, -1, -1, 2), (-1, -1, -1, 1), (0, 1, -1, -1), (0, 2, -1, -1), (0, -1, 3, -1)]
    clauses = torch.tensor(asked, dtype=torch.int8)[:, None].repeat(1, 3, 1)
    clauses = torch.cat([clauses, clauses[[2, 3, 0], 0][None]])  # all three of these at once
    answer = clip.truth(shown, whole, table, clauses, 1.0, 256)
    assert answer.tolist() == [[1, 0, 1, 0, 1, 0]]
    # A third of a thing tells its look and not its shape; 10 pixels tell neither.
    third = clip.truth(shown, whole * 3, table, clauses[:5], 1.0, 256)
    assert third.tolist() == [[1, 0, 1, 0, 0.5]]
    shown[0, 1] = 10
    assert clip.truth(shown, whole, table, clauses[:5], 1.0, 256).tolist() == [[1, 0, 0.5, 0, 0.5]]


def test_noisy_or_by_hand() -> None:
    # Two patches that each say yes with probability 1/2: the view does with 3/4.
    loss = clip.noisy_or_loss(torch.zeros(1, 2, 2), torch.tensor([[1.0, 0.0]]))
    assert loss[0].tolist() == pytest.approx([-math.log(3 / 4), -math.log(1 / 4)], abs=1e-5)


def test_patch_counts_agree_with_the_parts() -> None:
    scene = toybox.render(11, clip.SIZE)
    counts = clip.patch_counts(scene.parts)
    assert counts.sum(1).tolist() == [clip.PATCH**2] * clip.GRID**2
    assert counts[clip.GRID + 2].tolist() == np.bincount(
        scene.parts[8:16, 16:24].ravel(), minlength=clip.PARTS
    ).tolist()  # fmt: skip
