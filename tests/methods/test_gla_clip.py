"""GLA-CLIP: against the released code, against its formula written out, and on odd pictures."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from places import GOLDEN
from tiny import class_scores, tiny_clip, tiny_vfm
from wordmask import Segmenter, WordmaskError
from wordmask.methods import create_method
from wordmask.methods.gla_clip import GlaClip, WindowAffinity
from wordmask.pipeline import Pipeline

CASES = ["b_square_160x160", "c_rect_112x192"]
SETTINGS = {"released": "official", "no_proxy": "no-proxy", "plain": "plain"}
WINDOWS = {"window": 112, "stride": 64}
VFM = {"vfm": tiny_vfm()}


def pictures(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    small = torch.randn(shape[0], 3, shape[1] // 8, shape[2] // 8, generator=generator)
    return F.interpolate(small, size=shape[1:], mode="bilinear")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", list(SETTINGS))
def test_golden(case, name, golden_clip, golden_inputs):
    """Features of all windows, and their scores averaged over the picture."""
    golden = load_file(GOLDEN / "gla_clip" / case / "tensors.safetensors")
    segmenter = Segmenter.from_pretrained(golden_clip, "gla_clip", SETTINGS[name], WINDOWS)
    vfm = SimpleNamespace(features=lambda pixels, facet: golden["vfm_features"])
    towers = replace(segmenter.towers, networks=SimpleNamespace(vfm=vfm))
    image = golden_inputs[f"image.{case}"]
    size = image.shape[2], image.shape[3]
    encoding = Pipeline(segmenter.method, towers).encode(image, [size])
    assert len(encoding.windows) == len(golden["vfm_features"])
    if f"features.{name}" in golden:
        ours = encoding.features.flatten(2).transpose(1, 2)
        assert (ours - golden[f"features.{name}"]).abs().max() <= 5e-5
    texts = segmenter.encode_text(golden_inputs["text_features"], "none")
    scores = segmenter.method.scores(towers, encoding, texts)
    (maps,) = encoding.score_maps(scores)
    ours = maps.rows(0, size[0], size)[:, ::4, ::4]
    assert (ours - golden[f"logits.{name}"]).abs().max() <= 1e-5


def as_written(features: torch.Tensor, method: GlaClip) -> torch.Tensor:
    """A as the formulas have it, with whole matrices and a loop over rows."""
    k = F.normalize(features.flatten(2).transpose(1, 2).flatten(0, 1).double(), dim=-1)
    a, p = k @ k.T, k
    for _ in range(2):
        mask = a > method.similar
        mask |= torch.eye(len(k), dtype=torch.bool) & ~mask.any(1, keepdim=True)
        p = F.normalize(torch.stack([k[row].mean(0) for row in mask]), dim=-1)
        a = p @ k.T
    a = (p if method.proxies else k) @ k.T
    if method.adaptive:
        u = 1 + 0.3 * torch.tensor(1.0 + len(features)).log()
        a = (a - u * a.mean(1, keepdim=True).clamp_min(0)) * (1 + 30 / mask.sum(1))[:, None]
    else:
        a = (a - method.beta * a.mean()) * method.gamma
    least = a.amax(1, keepdim=True).clamp_max(0)
    return torch.softmax(a.masked_fill(a < least, -torch.inf), dim=1)


@pytest.mark.parametrize("variant", GlaClip.variants)
def test_it_is_the_formula(variant, monkeypatch):
    monkeypatch.setattr("wordmask.affinity.BLOCK", 200)  # rows in several blocks
    method, _ = create_method("gla_clip", variant)
    features = torch.randn(3, 6, 4, 5, generator=torch.Generator().manual_seed(1)) + 0.2
    expected = as_written(features, method)
    affinity = WindowAffinity(features, method)
    assert len(list(affinity.blocks())) > 1
    assert torch.allclose(affinity.dense().double(), expected, atol=1e-5)
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(2))
    assert torch.allclose((affinity @ x).double(), expected @ x.double(), atol=1e-5)


def test_a_window_sees_the_others():
    """A change in one corner reaches windows that do not hold it, and not in ProxyCLIP."""
    clip, image = tiny_clip(), pictures(1, 96, 160)
    changed = image.clone()
    changed[..., 64:, :64] = 1.0
    reached = {}
    for name in ("gla_clip", "proxyclip"):
        segmenter = Segmenter.from_pretrained(
            clip, name, options={"window": 64, "stride": 32}, networks=VFM
        )
        one, two = segmenter.encode(image), segmenter.encode(changed)
        assert one.windows[0] == (0, 0, 64, 64)
        reached[name] = (one.features[0] - two.features[0]).abs().max()
    assert reached["proxyclip"] == 0
    assert reached["gla_clip"] > 1e-3


def test_plain_in_one_window_is_proxyclip():
    """The released code's defaults are ProxyCLIP over all windows: with one they are ProxyCLIP."""
    clip, image = tiny_clip(), pictures(1, 64, 96)
    ours, theirs = (
        Segmenter.from_pretrained(clip, name, networks=VFM).encode(image).features
        for name in ("gla_clip:plain", "proxyclip")
    )
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_pictures_of_a_list_do_not_see_each_other():
    image = pictures(3, 96, 128)
    options = {"window": 64, "stride": 32}
    segmenter = Segmenter.from_pretrained(tiny_clip(), "gla_clip", options=options, networks=VFM)
    texts = F.normalize(torch.randn(4, 48, generator=torch.Generator().manual_seed(3)), dim=-1)
    together = class_scores(segmenter, segmenter.encode(image), texts)
    for i in range(3):
        alone = class_scores(segmenter, segmenter.encode(image[i : i + 1]), texts)
        assert torch.allclose(alone[0], together[i], atol=1e-5)


@pytest.mark.parametrize("variant", GlaClip.variants)
@pytest.mark.parametrize(
    ("size", "window", "patch"),
    [((8, 8), 224, 8), ((8, 40), 16, 8), ((40, 24), 8, 4), ((24, 24), 16, 16)],
)
def test_small_and_narrow_pictures(variant, size, window, patch):
    """One window, one patch, windows of one patch, another patch of the VFM."""
    segmenter = Segmenter.from_pretrained(
        tiny_clip(),
        "gla_clip",
        variant,
        {"window": window, "stride": 8},
        networks={"vfm": tiny_vfm(patch=patch)},
    )
    features = segmenter.encode(torch.ones(1, 3, *size)).features
    assert torch.isfinite(features).all()


def test_bad_input():
    segmenter = Segmenter.from_pretrained(
        tiny_clip(), "gla_clip", options={"window": 8}, networks={"vfm": tiny_vfm(patch=16)}
    )
    with pytest.raises(WordmaskError, match="at least one patch of 16 x 16 is needed"):
        segmenter.encode(pictures(1, 64, 64))
    for options in ({"gamma": 0.0}, {"similar": 2.0}):
        with pytest.raises(WordmaskError, match="similar a cosine"):
            create_method("gla_clip", None, options)
    with pytest.raises(WordmaskError, match="joins windows in a way of its own"):
        create_method("gla_clip", None, {"stitch": True})
