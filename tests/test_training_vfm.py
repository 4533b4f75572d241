from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "training" / "vfm.py"
if not SCRIPT.exists():
    pytest.skip("the training scripts are not here", allow_module_level=True)
_spec = importlib.util.spec_from_file_location("training_vfm", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
vfm = importlib.util.module_from_spec(_spec)
sys.modules["training_vfm"] = vfm
_spec.loader.exec_module(vfm)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return vfm.build_model(argparse.Namespace(width=32, blocks=2)).eval()


def whole_window(side: int) -> torch.Tensor:
    return vfm.Views(torch.zeros(2, 2), torch.eye(2).expand(2, 2, 2)).points(side)


def test_a_whole_window_gives_the_forward_of_transformers(model) -> None:
    pixels = torch.randn(2, 3, vfm.SIZE, vfm.SIZE)
    with torch.no_grad():
        theirs = model(pixel_values=pixels).last_hidden_state[:, 1:]
        ours = vfm.encode(model, pixels, whole_window(vfm.GRID), None)
    torch.testing.assert_close(ours.flatten(1, 2), theirs, atol=1e-4, rtol=0)


def test_a_masked_patch_says_nothing_of_its_pixels(model) -> None:
    pixels = torch.randn(1, 3, 16, 16)
    other = pixels.clone()
    other[:, :, :4, :4] += 1
    masked = torch.zeros(1, 16, dtype=torch.bool)
    masked[0, 0] = True
    window = whole_window(4)[:1]
    with torch.no_grad():
        same = [vfm.encode(model, p, window, masked) for p in (pixels, other)]
        told = [vfm.encode(model, p, window, None) for p in (pixels, other)]
    assert torch.equal(*same)
    assert not torch.equal(*told)


def test_views_lie_inside_the_scene_and_find_their_own_places() -> None:
    torch.manual_seed(1)
    first = vfm.Views.draw(64, None, 0.3, 0.8)
    second = vfm.Views.draw(64, first, 0.3, 0.8)
    for views in (first, second):
        points = views.points(12)
        assert points.abs().max() <= 1
        expected = whole_window(12)[:1].expand(64, -1, -1, -1)
        torch.testing.assert_close(views.locate(points), expected, atol=1e-5, rtol=0)


def test_a_view_shows_the_pixels_that_lie_there() -> None:
    # A flipped quarter of the scene, at its own scale: light and noise aside, its pixels.
    torch.manual_seed(2)
    image = torch.rand(1, 3, 96, 96)
    views = vfm.Views(torch.tensor([[-0.5, -0.5]]), torch.tensor([[[-0.5, 0.0], [0.0, 0.5]]]))
    shown = vfm.show(image, views, 12)[0].flatten(1)
    expected = image[0, :, :48, :48].flip(2).flatten(1)
    assert torch.corrcoef(torch.cat([shown, expected]))[:3, 3:].diag().min() > 0.95


def test_assignments_are_rows_that_use_all_prototypes_alike() -> None:
    torch.manual_seed(3)
    share = vfm.assign(torch.randn(4000, 16) + 1, torch.randn(8, 16), 0.1, rounds=20)
    torch.testing.assert_close(share.sum(1), torch.ones(4000))
    torch.testing.assert_close(share.mean(0), torch.full((8,), 1 / 8), atol=0.005, rtol=0)


def test_only_pairs_that_look_unlike_are_kept_apart() -> None:
    # Patches 0 and 1 look alike to the teacher, 2 like neither; 3 is masked.
    taught = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]).reshape(1, 2, 2, 2)
    masked = torch.tensor([[False, False, False, True]])
    ours = torch.tensor([[1.0, 0], [1, 0], [0.6, 0.8], [1, 0]]).reshape(1, 2, 2, 2)
    assert vfm.part(ours, taught, masked, 0.6).item() == pytest.approx(0.36)


def test_settling_joins_what_is_alike_and_near() -> None:
    tokens = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]]).reshape(1, 2, 2, 2)
    settled = torch.nn.functional.normalize(vfm.settle(tokens, 0.1, 2.8).flatten(1, 2), dim=-1)[0]
    before = torch.nn.functional.normalize(tokens.flatten(1, 2), dim=-1)[0]
    assert settled[0] @ settled[1] > before[0] @ before[1]
    assert settled[0] @ settled[2] < 0.11


def test_auc_by_hand() -> None:
    # Patches a a / a b: three pairs are of one part (cosines 1, 0.6, 0.6), three are not
    # (0, 0, 0.8): 7 of the 9 comparisons are won.
    tokens = torch.tensor([[1.0, 0], [1, 0], [0.6, 0.8], [0, 1]]).reshape(2, 2, 2)
    parts = torch.tensor([[0, 0], [0, 1]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert vfm.same_thing_auc(tokens, parts) == pytest.approx(7 / 9)


def test_affinity_by_hand() -> None:
    # Cosines 1 1 0 / 1 1 0 / 0 0 1, mean 5/9: (1 - 1.2 * 5/9) * 3 = 1, and below 0 where unlike.
    tokens = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    expected = torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    torch.testing.assert_close(vfm.affinity(tokens), expected)


def test_affinity_of_patches_all_alike_is_finite() -> None:
    assert torch.equal(vfm.affinity(torch.ones(3, 2)), torch.eye(3))


def test_mean_iou_by_hand() -> None:
    parts = torch.tensor([[0, 0], [0, 1]])
    score = torch.tensor([[[1.0, 1], [0, 0]], [[0, 0], [1, 1]]])
    assert vfm.mean_iou(score, parts) == pytest.approx((2 / 3 + 1 / 2) / 2)
