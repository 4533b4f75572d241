"""Windows joined before the last block: nothing lost, no seams, and what cannot be joined."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tiny import class_scores, tiny_clip, tiny_vfm
from wordmask import Segmenter, WordmaskError, list_methods
from wordmask.batch.encodings import keep_passes
from wordmask.evaluation.sharing import share_encoders
from wordmask.methods import METHODS, create_method
from wordmask.towers.clip import ClipTower, Need
from wordmask.towers.stitched import StitchedTower

VFM = {"vfm": tiny_vfm()}
OWN = {name for name in list_methods() if METHODS[name].own_windows or METHODS[name].joint_windows}
JOINED = sorted(set(list_methods()) - OWN - {"rf_clip"})
WINDOWS = {"window": 64, "stride": 32}
# of networks of one block; SC-CLIP takes its similarities from blocks before the last
SHALLOW = sorted(set(JOINED) - {"sc_clip"})


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(1)
    return F.normalize(torch.randn(5, 48, generator=generator), dim=-1)


def pictures(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    small = torch.randn(shape[0], 3, -(-shape[1] // 8), -(-shape[2] // 8), generator=generator)
    return F.interpolate(small, size=shape[1:], mode="bilinear")


def segmenter_of(clip, method, **options):
    return Segmenter.from_pretrained(clip, method, options=options, networks=VFM)


def test_states_are_averaged_where_windows_overlap(clip):
    tower = ClipTower(clip)
    image = pictures(2, 64, 96)
    stitched = StitchedTower(tower, 64, 32).trace(image, Need.of([3]))
    parts = [tower.trace(image[..., x : x + 64], Need.of([3])).states[3] for x in (0, 32)]
    left, right = (x[:, 1:].unflatten(1, (8, 8)) for x in parts)
    expected = torch.cat(
        [left[:, :, :4], (left[:, :, 4:] + right[:, :, :4]) / 2, right[:, :, 4:]], 2
    )
    assert stitched.grid == (8, 12)
    assert torch.allclose(stitched.states[3][:, 1:], expected.flatten(1, 2), atol=1e-6)
    assert torch.allclose(stitched.states[3][:, 0], (parts[0] + parts[1])[:, 0] / 2, atol=1e-6)


@pytest.mark.parametrize("method", SHALLOW)
def test_one_block_without_positions_sees_the_whole_picture(texts, method):
    """The embedding is then the same in every window, so joined windows are the whole picture.

    That the last block attends over all of it follows; in windows apart it does not.
    """
    clip = tiny_clip(layers=1)
    clip.vision_model.embeddings.position_embedding.weight.data.zero_()
    image = pictures(2, 96, 160)
    whole, joined, apart = (
        segmenter_of(clip, method, **options).encode(image)
        for options in ({}, {**WINDOWS, "stitch": True}, WINDOWS)
    )
    assert joined.windows == ()
    assert len(apart.windows) == 8
    assert torch.allclose(whole.features, joined.features, atol=2e-5)
    segmenter = segmenter_of(clip, method)
    one, other = (class_scores(segmenter, x, texts) for x in (whole, joined))
    assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("method", JOINED)
class TestEveryMethodThatCanBeJoined:
    def test_one_window_is_the_whole_picture_to_the_bit(self, clip, method):
        image = pictures(1, 64, 56)
        plain = segmenter_of(clip, method).encode(image).features
        for window in (64, 512):
            options = {"window": window, "stitch": True}
            assert torch.equal(plain, segmenter_of(clip, method, **options).encode(image).features)

    def test_several_windows(self, clip, texts, method):
        """Batches as single pictures, whatever goes through the network together."""
        image = pictures(2, 96, 160)
        segmenter = segmenter_of(clip, method, **WINDOWS, stitch=True)
        encoding = segmenter.encode(image)
        assert encoding.grid == (12, 20)
        scores = class_scores(segmenter, encoding, texts)
        assert torch.isfinite(scores).all()
        single = class_scores(segmenter, segmenter.encode(image[1:]), texts)
        assert torch.allclose(single[0], scores[1], atol=1e-5)
        apart = segmenter_of(clip, method, **WINDOWS)
        one, two = (x(image[:1], texts)[0].labels for x in (segmenter, apart))
        assert one.shape == two.shape == (96, 160)
        if METHODS[method].class_maps:  # absent classes are dropped: often none is left to differ
            return
        assert (one != two).any()


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_windows_at_once_change_nothing(clip, at_once, monkeypatch):
    image = pictures(2, 96, 160)
    one = segmenter_of(clip, "clearclip", **WINDOWS, stitch=True).encode(image).features
    monkeypatch.setattr("wordmask.pipeline.CPU_BATCH", at_once)
    many = segmenter_of(clip, "clearclip", **WINDOWS, stitch=True).encode(image).features
    assert torch.allclose(one, many, atol=1e-5)


@pytest.mark.parametrize("remainder", ["drop", "pad"])
@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [((61, 83), 30, 13), ((8, 8), 8, 8), ((8, 70), 5, 3), ((43, 9), 16, 16), ((64, 64), 1, 1)],
)
def test_windows_that_are_not_whole_patches(clip, texts, remainder, size, window, stride):
    """They are taken in whole patches, so that all lie on one grid."""
    options = {"window": window, "stride": stride, "remainder": remainder, "stitch": True}
    segmenter = segmenter_of(clip, "sclip", **options)
    encoding = segmenter.encode(pictures(1, *size))
    up = 7 if remainder == "pad" else 0
    assert encoding.grid == tuple((side + up) // 8 for side in size)
    assert torch.isfinite(encoding.features).all()
    assert segmenter(encoding, texts)[0].labels.shape == size
    for y, x, h, w in segmenter.method.place_windows(*size, 8):
        top, left, *_ = encoding.pad
        assert (y + top) % 8 == (x + left) % 8 == h % 8 == w % 8 == 0
        assert -top <= y
        assert -left <= x


def test_no_seam_is_left(clip, texts):
    """Apart, columns at a border of windows differ more than others; joined, as others do."""
    clip = copy.deepcopy(clip)
    image = pictures(1, 64, 256)
    jumps = []
    for stitch in (False, True):
        segmenter = segmenter_of(clip, "clearclip", window=64, stride=64, stitch=stitch)
        maps = segmenter.score(segmenter.encode(image), segmenter.encode_text(texts, "none"))[
            0
        ].maps
        rows = maps.rows(0, 64, (64, 256))
        steps = (rows[..., 1:] - rows[..., :-1]).abs().mean((0, 1))
        borders = np.array([63, 127, 191])
        jumps.append(float(steps[borders].mean() / np.delete(steps.numpy(), borders).mean()))
    assert jumps[0] > 3
    assert jumps[1] < 1.5


def test_passes_of_windows_are_kept_and_shared(clip, tmp_path):
    image = pictures(1, 96, 160)
    segmenter = segmenter_of(clip, "naclip", **WINDOWS, stitch=True)
    plain = segmenter.encode(image).features
    kept = keep_passes(segmenter, tmp_path)
    first = kept.encode(image).features
    assert kept.tower.passes == 8  # windows
    assert torch.equal(kept.encode(image).features, first)
    assert kept.tower.kept == 8
    assert (plain - first).abs().mean() < 0.005 * plain.abs().max()

    same = dict(short_side=96, **WINDOWS, stitch=True, remainder="drop", position="bicubic")
    both = {name: segmenter_of(clip, name, **same) for name in ("sclip", "naclip")}
    shared, (tower,) = share_encoders(both)
    for name, one in both.items():
        assert torch.equal(shared[name].encode(image).features, one.encode(image).features)
    assert len(tower._traces) == 8


@pytest.mark.parametrize("method", sorted(OWN))
def test_methods_that_slide_windows_themselves(method):
    with pytest.raises(WordmaskError, match=f"for {method}, which joins windows in a way of its"):
        create_method(method, None, {"stitch": True, "window": 64})


def test_what_cannot_be_joined(clip):
    with pytest.raises(WordmaskError, match="without windows; give their size"):
        create_method("sclip", None, {"stitch": True})
    with pytest.raises(WordmaskError, match="with a pass of its own"):
        segmenter_of(clip, "rf_clip", **WINDOWS, stitch=True).encode(pictures(1, 96, 96))
