"""OV-Stitcher: against the released code, and on odd windows, pictures and regions."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from places import GOLDEN
from tiny import class_scores, tiny_clip, tiny_vfm
from wordmask import Segmenter, WordmaskError
from wordmask.methods import create_method
from wordmask.methods.base import cosine

CASES = ["b_square_160x160", "c_rect_112x192"]
WINDOWS = {"window": 112, "stride": 64}
VFM = {"vfm": tiny_vfm()}


def pictures(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    small = torch.randn(shape[0], 3, -(-shape[1] // 8), -(-shape[2] // 8), generator=generator)
    return F.interpolate(small, size=shape[1:], mode="bilinear")


def quarters(height: int, width: int) -> np.ndarray:
    """Four regions, and a strip that is in none."""
    rows, columns = np.mgrid[:height, :width]
    regions = 1 + (rows >= height // 2) + 2 * (columns >= width // 2)
    regions[: height // 8] = 0
    return regions


def segmenter_of(clip, variant="repaired", networks=None, **options):
    return Segmenter.from_pretrained(
        clip, "ov_stitcher", variant, options, networks=VFM if networks is None else networks
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("variant", "prefix"), [("official", ""), ("repaired", "per_head.")])
def test_golden(case, variant, prefix, golden_clip, golden_inputs):
    golden = load_file(GOLDEN / "ov_stitcher" / case / "tensors.safetensors")
    given = load_file(GOLDEN / "corrclip" / case / "tensors.safetensors")
    segmenter = Segmenter.from_pretrained(golden_clip, "ov_stitcher", variant, WINDOWS)
    method, tower = segmenter.method, segmenter.tower
    image, regions = golden_inputs[f"image.{case}"], given["partial.regions"].int()
    vfm = given["partial.vfm_features"]
    with torch.inference_mode():
        grid = (image.shape[2] // 16, image.shape[3] // 16)
        values, spatial, _ = method.joined(tower, image, torch.zeros(grid, dtype=torch.int32))
        branches = method.branches(tower, image, regions[None], vfm[None])
        ours = [tower.project(one) for one in branches]
        stitched = SimpleNamespace(stitched=lambda *given: vfm[None])
        towers = replace(segmenter.towers, networks=SimpleNamespace(vfm=stitched))
        features = method.encode(towers, image, regions=regions[None]).features
    scale = golden["stitched_value"].abs().max()
    assert (values[0].permute(2, 0, 1) - golden["stitched_value"]).abs().max() <= 1e-5 * scale
    tokens = golden[f"{prefix}spatial_input"]
    assert (spatial[0].flatten(0, 1) - tokens).abs().max() <= 1e-5 * tokens.abs().max()
    keys = ["features.main", f"{prefix}features.spatial", "features.semantic"]
    for one, key in zip(ours, keys, strict=True):
        assert (one - golden[key]).abs().max() <= 5e-5
    assert (features[0].flatten(1).T - golden[f"{prefix}features"]).abs().max() <= 5e-5
    cosines = cosine(features, golden_inputs["text_features"])[0]
    assert (cosines - golden[f"{prefix}cosine"]).abs().max() <= 1e-5


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
@pytest.mark.parametrize("variant", ["repaired", "official"])
@pytest.mark.parametrize(
    ("size", "window", "patch"),
    [((8, 8), 336, 8), ((8, 40), 16, 8), ((40, 24), 8, 4), ((40, 30), 20, 7), ((24, 24), 0, 8)],
)
def test_odd_pictures_and_networks(layers, variant, size, window, patch):
    """One patch, one window, windows that are not whole patches, few blocks, a VFM of another."""
    clip, networks = tiny_clip(layers=layers), {"vfm": tiny_vfm(patch=patch)}
    segmenter = segmenter_of(clip, variant, networks, window=window, stride=8, short_side=None)
    picture = (255 * torch.rand(*size, 3, generator=torch.Generator().manual_seed(0))).byte()
    for regions in (quarters(*size), np.ones(size, int), np.zeros(size, int)):
        features = segmenter.encode(picture.numpy(), regions).features
        assert torch.isfinite(features).all()


def test_a_window_sees_the_others_and_no_border_is_left():
    """Joined, a change in one corner reaches all of its region, in windows that do not hold it."""
    clip = tiny_clip()
    segmenter = segmenter_of(clip, window=64, stride=32, short_side=None, semantic_weight=0.0)
    picture = np.full((96, 160, 3), 90, np.uint8)
    changed = picture.copy()
    changed[72:, :24] = 250
    whole = np.ones((96, 160), int)
    one, two = (segmenter.encode(x, whole).features[0] for x in (picture, changed))
    assert (one - two)[:, :4, -4:].abs().max() > 1e-3


def test_the_last_block_of_the_vfm_sees_all_windows():
    """Two windows that overlap: input, q, k and v of patches are averaged; no class token."""
    vfm = segmenter_of(tiny_clip()).networks.vfm
    image = pictures(1, 64, 96).sigmoid()
    *blocks, last = vfm.model.layers
    before = dict(last.named_modules())
    joined = vfm.stitched(image, 64, 32)
    assert joined.shape == (1, 32, 8, 12)
    parts, hits = torch.zeros(4, 8, 12, 32), torch.zeros(8, 12, 1)
    for left in (0, 4):
        x = vfm._embed(vfm._prepare(image[..., 8 * left : 8 * left + 64], (8, 8)), (8, 8))
        for block in blocks:
            x = block(x)
        z, own = last.layernorm_before(x), last.attention
        rows = torch.stack([x, own.q_proj(z), own.k_proj(z), own.v_proj(z)])[:, 0, 1:]
        parts[:, :, left : left + 8] += rows.view(4, 8, 8, 32)
        hits[:, left : left + 8] += 1
    x, *projections = (parts / hits).flatten(1, 2)
    q, k, v = (t.view(96, 2, 16).transpose(0, 1) for t in projections)
    mixed = (torch.softmax(q @ k.transpose(1, 2) / 4, dim=-1) @ v).transpose(0, 1).flatten(1)
    x = x + own.o_proj(mixed)
    x = x + last.mlp(last.layernorm_after(x))
    assert (joined[0].flatten(1).T - x).abs().max() < 1e-5
    sums = vfm.stitched(image, 64, 32, "queries+keys")[0].flatten(1).T
    assert (sums - projections[0] - projections[1]).abs().max() < 1e-5
    assert dict(last.named_modules()) == before  # the network stays as it is


def test_bad_input():
    clip = tiny_clip()
    with pytest.raises(WordmaskError, match="joins windows in a way of its own"):
        create_method("ov_stitcher", None, {"stitch": True})
    with pytest.raises(WordmaskError, match="at least one patch of 16 x 16"):
        segmenter_of(clip, networks={"vfm": tiny_vfm(patch=16)}, short_side=None).encode(
            np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), int)
        )
    texts = F.normalize(torch.randn(4, 48), dim=-1)
    segmenter = segmenter_of(clip, short_side=None)
    encoding = segmenter.encode(np.zeros((64, 64, 3), np.uint8), quarters(64, 64))
    assert class_scores(segmenter, encoding, texts).shape == (1, 4, 8, 8)
