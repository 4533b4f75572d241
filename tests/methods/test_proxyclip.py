"""ProxyCLIP against the released code, and its attention, which is never formed whole."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from places import GOLDEN
from tiny import tiny_clip, tiny_vfm
from wordmask import Segmenter, WordmaskError
from wordmask import affinity as affinity_module
from wordmask.affinity import MaskedSoftmax
from wordmask.methods import create_method
from wordmask.methods.base import Towers, cosine
from wordmask.towers.clip import Need

CASES = ["a_native_112x112", "b_square_160x160", "c_rect_112x192"]
SETTINGS = {
    "beta1.2_gamma3.0": {},
    "beta1.0_gamma5.0": {"beta": 1.0, "gamma": 5.0},
}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def as_written(q, k, beta=1.2, gamma=3.0, threshold=None):
    """The attention with every step formed, (L, L)."""
    c = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).T
    if threshold is None:
        scores = (c - beta * c.mean()) * gamma
        return torch.softmax(scores.masked_fill(scores < 0, -torch.inf), dim=-1)
    return torch.softmax((gamma * c).masked_fill(c < threshold, -torch.inf), dim=-1)


def given_features(features: torch.Tensor) -> SimpleNamespace:
    """AuxiliaryModels whose VFM gives these features (B, D, h, w) for every picture."""
    return SimpleNamespace(vfm=SimpleNamespace(features=lambda pixels, facet: features))


def towers_with(segmenter: Segmenter, networks: SimpleNamespace | None) -> Towers:
    """The segmenter's networks with other auxiliary models."""
    return replace(segmenter.towers, networks=networks)


# -- the released code ------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", list(SETTINGS))
def test_golden(case, name, golden_clip, golden_inputs):
    """The golden run was given random VFM features, on grids unlike CLIP's."""
    golden = load_file(GOLDEN / "proxyclip" / case / "tensors.safetensors")
    segmenter = Segmenter.from_pretrained(golden_clip, "proxyclip", None, SETTINGS[name])
    networks = given_features(golden["vfm_features"][None])
    image = golden_inputs[f"image.{case}"]
    with torch.inference_mode():
        features = segmenter.method.encode(towers_with(segmenter, networks), image).features
    assert (features[0].flatten(1).T - golden[f"features.{name}"]).abs().max() <= 5e-5
    cosines = cosine(features, golden_inputs["text_features"])[0]
    assert (cosines - golden[f"cosine.{name}"]).abs().max() <= 1e-5


def test_golden_attention():
    golden = load_file(GOLDEN / "proxyclip" / CASES[0] / "tensors.safetensors")
    features = golden["vfm_features"].flatten(1).T
    ours = MaskedSoftmax(features).dense()
    theirs = golden["attention.beta1.2_gamma3.0"]
    assert (ours - theirs).abs().max() <= 1e-6
    assert torch.equal(ours == 0, theirs == 0)


# -- the attention ------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 40),
    width=st.integers(1, 8),
    beta=st.floats(0, 2),
    gamma=st.floats(0.1, 200),
    same=st.booleans(),
)
def test_it_is_the_equation(seed, size, width, beta, gamma, same):
    q = random(size, width, seed=seed, dtype=torch.float64) + 0.3
    k = q if same else random(size, width, seed=seed + 1, dtype=torch.float64) + 0.3
    affinity = MaskedSoftmax(q, k, beta=beta, gamma=gamma)
    rows = affinity.rows(slice(None))
    expected = as_written(q, k, beta, gamma)
    masked = expected[:, 0].isnan()
    assert torch.allclose(rows[~masked], expected[~masked], atol=1e-9)
    assert torch.equal(rows[masked], torch.eye(size, dtype=torch.float64)[masked])
    assert torch.allclose(rows.sum(-1), torch.ones(size, dtype=torch.float64))
    x = random(size, 3, dtype=torch.float64)
    assert torch.allclose(affinity @ x, rows @ x, atol=1e-12)


def test_by_hand():
    """Two equal vectors and one at right angles to them: mean cosine 5/9."""
    features = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    half = [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    assert MaskedSoftmax(features).dense().tolist() == half
    e = 2.718281828**3
    all_kept = MaskedSoftmax(features, beta=0.0).dense()
    assert torch.allclose(all_kept[0], torch.tensor([e, e, 1.0]) / (2 * e + 1))
    assert torch.allclose(all_kept[2], torch.tensor([1.0, 1.0, e]) / (2 + e))
    # 1.8 times the mean is 1: what lies on the threshold counts
    on_it = MaskedSoftmax(features.double(), threshold=1.0).dense()
    assert on_it.tolist() == half


def test_a_fixed_threshold_masks_and_does_nothing_else():
    features = random(30, 4) + 0.5
    ours = MaskedSoftmax(features, gamma=1.0, threshold=0.4).dense()
    assert torch.allclose(ours, as_written(features, features, gamma=1.0, threshold=0.4), atol=1e-6)
    assert (ours == 0).any()


@pytest.mark.parametrize(
    "features",
    [
        torch.ones(12, 5),  # the mean is 1 and 1.2 is more than any cosine
        torch.zeros(12, 5),
        torch.cat([torch.ones(11, 5), torch.zeros(1, 5)]),
    ],
)
def test_rows_that_are_masked_whole_keep_what_they_have(features):
    affinity = MaskedSoftmax(features)
    x = random(12, 3)
    mixed = affinity @ x
    assert torch.isfinite(mixed).all()
    assert torch.equal(mixed[-1], x[-1]) == (features[0].sum() > 0)
    assert torch.allclose(affinity.dense().sum(-1), torch.ones(12))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite(bad):
    features = random(6, 4)
    features[2, 1] = bad
    with pytest.raises(WordmaskError, match="NaN or infinite"):
        MaskedSoftmax(features)
    with pytest.raises(WordmaskError, match="NaN or infinite"):
        MaskedSoftmax(random(6, 4), features)


def test_features_of_different_shapes():
    with pytest.raises(WordmaskError, match=r"\(6, 4\) and \(5, 4\)"):
        MaskedSoftmax(random(6, 4), random(5, 4))


@pytest.mark.parametrize("grid", [(2, 3), (5, 4), (12, 20), (9, 30)])
def test_both_orders_of_mixing_are_one(grid):
    """A U x, with U first or with A U first, whichever `mix` takes for this grid."""
    features, maps = random(12 * 20, 6, dtype=torch.float64) + 0.4, random(7, *grid)
    affinity = MaskedSoftmax(features)
    resized = F.interpolate(maps[None].double(), size=(12, 20), mode="bilinear")[0]
    expected = (affinity.rows(slice(None)) @ resized.flatten(1).T).T.unflatten(1, (12, 20))
    mixed = affinity.mix(maps, (12, 20))
    assert mixed.dtype == maps.dtype
    assert torch.allclose(mixed.double(), expected, atol=1e-6)


def test_blocks_change_nothing(monkeypatch):
    features, maps = random(48, 6) + 0.4, random(5, 3, 4)
    whole = MaskedSoftmax(features).mix(maps, (6, 8))
    monkeypatch.setattr(affinity_module, "BLOCK", 100)
    assert torch.allclose(MaskedSoftmax(features).mix(maps, (6, 8)), whole, atol=1e-6)
    assert torch.allclose(
        MaskedSoftmax(features) @ features, as_written(features, features) @ features, atol=1e-5
    )


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation puts out."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                self.numbers = max(self.numbers, x.numel())
        return out


@pytest.mark.parametrize("grid", [(4, 4), (32, 64)])
def test_the_matrix_is_never_there(monkeypatch, grid):
    monkeypatch.setattr(affinity_module, "BLOCK", 2**17)
    features, maps = random(32 * 64, 8), random(3, *grid)
    with Largest() as largest:
        MaskedSoftmax(features).mix(maps, (32, 64))
    assert largest.numbers <= 2**17
    assert len(features) ** 2 == 2**22


# -- the method ------------------------------------------------------------


def test_scores_lie_on_the_grid_of_the_vfm():
    clip = tiny_clip(layers=2)
    for patch in (4, 8, 16):
        vfm = {"vfm": tiny_vfm(patch=patch, image_size=64)}
        segmenter = Segmenter.from_pretrained(clip, "proxyclip", networks=vfm)
        encoding = segmenter.encode(random(2, 3, 64, 112))
        assert encoding.grid == (64 // patch, 112 // patch)
        assert segmenter(encoding, F.normalize(random(3, 48), dim=-1))[0].labels.shape == (64, 112)


def test_without_contrast_every_patch_keeps_its_own_value():
    """All rows masked: the identity attends, which is MaskCLIP without residual and FFN."""
    clip, image = tiny_clip(layers=3), random(1, 3, 56, 64)
    plain = Segmenter.from_pretrained(clip, "maskclip", "clearclip").encode(image).features
    segmenter = Segmenter.from_pretrained(clip, "proxyclip")
    networks = given_features(torch.ones(1, 4, 7, 8))
    ours = segmenter.method.encode(towers_with(segmenter, networks), image).features
    assert torch.allclose(ours, plain, atol=1e-5)


@pytest.mark.parametrize("attention", ["qk", "qq", "kk"])
def test_attention_of_clip_itself(attention):
    """Table 3 of the supplement: no VFM is used; heads side by side, without class token."""
    clip, image = tiny_clip(layers=3), random(1, 3, 56, 64)
    options = {"attention": attention}
    segmenter = Segmenter.from_pretrained(clip, "proxyclip", None, options)
    tower = segmenter.tower
    ours = segmenter.method.encode(towers_with(segmenter, None), image).features
    trace = tower.trace(image, Need.of(projections={3: "qkv"}))
    q, k, v = (x[3][0, :, 1:] for x in (trace.queries, trace.keys, trace.values))
    joined = {"q": q.transpose(0, 1).flatten(1), "k": k.transpose(0, 1).flatten(1)}
    weights = as_written(joined[attention[0]], joined[attention[1]])
    tokens = tower.project(tower.block(3).output((weights @ v)[None]))
    assert torch.allclose(ours[0].flatten(1).T, tokens[0], atol=1e-5)
    assert not segmenter.networks.describe()


def test_the_vfm_gets_the_picture_without_clips_normalisation():
    clip, given = tiny_clip(layers=2), []

    def features(pixels, facet):
        given.append((pixels, facet))
        return random(1, 4, 7, 7)

    unit = torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    options = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "facet": "keys"}
    segmenter = Segmenter.from_pretrained(clip, "proxyclip", None, options)
    mean, std = (torch.tensor(options[x])[:, None, None] for x in ("mean", "std"))
    networks = SimpleNamespace(vfm=SimpleNamespace(features=features))
    segmenter.method.encode(towers_with(segmenter, networks), (unit - mean) / std)
    assert torch.allclose(given[0][0], unit, atol=1e-6)
    assert given[0][1] == "keys"


def test_official_pads_and_paper_rounds():
    clip, vfm = tiny_clip(layers=2), {"vfm": tiny_vfm()}
    photo = (random(60, 90, 3).clamp(0, 1) * 255).byte().numpy()
    grids = {}
    for variant in ("paper", "official"):
        options = {"short_side": 60}
        segmenter = Segmenter.from_pretrained(clip, "proxyclip", variant, options, networks=vfm)
        encoding = segmenter.encode(photo)
        grids[variant] = encoding.grid, encoding.pixel_size, encoding.pad
        labels = segmenter(encoding, F.normalize(random(3, 48), dim=-1)).labels
        assert labels.shape == (60, 90)
    assert grids["paper"] == ((8, 11), (64, 88), (0, 0, 0, 0))
    assert grids["official"] == ((8, 12), (60, 90), (2, 3, 2, 3))


def test_the_map_that_is_shown_leads_to_the_patches_alike():
    """Left half alike, right half alike: a patch attends to its own half, and nothing else."""
    clip, image = tiny_clip(layers=2), random(1, 3, 32, 64)
    halves = torch.zeros(1, 2, 8, 16)
    halves[:, 0, :, :8] = halves[:, 1, :, 8:] = 1
    segmenter = Segmenter.from_pretrained(clip, "proxyclip")
    method, tower = segmenter.method, segmenter.tower
    towers = towers_with(segmenter, given_features(halves))
    trace = method.trace(towers, image, method.need(tower.depth))
    shown = method.mixing_map(tower, trace)[0, 0]
    left = (torch.arange(32) % 8) < 3  # patches whose enlarged neighbours lie in the half too
    right = (torch.arange(32) % 8) > 4
    assert (shown[1:, 1:][left][:, right] == 0).all()
    assert (shown[1:, 1:][right][:, left] == 0).all()
    assert torch.allclose(shown[1:, 1:].sum(-1), torch.ones(32))
    assert shown[0].tolist() == [1.0] + [0.0] * 32


def test_a_vfm_that_is_the_same_module_twice_is_the_same(tmp_path):
    """By folder or in memory, the features are the same."""
    clip, image = tiny_clip(layers=2), random(1, 3, 56, 64)
    vfm = tiny_vfm()
    vfm.save_pretrained(tmp_path)
    in_memory = Segmenter.from_pretrained(clip, "proxyclip", networks={"vfm": vfm})
    from_folder = Segmenter.from_pretrained(clip, "proxyclip", networks={"vfm": tmp_path})
    first, second = (s.encode(image).features for s in (in_memory, from_folder))
    assert torch.equal(first, second)
    described = from_folder.provenance()["networks"]["vfm"]
    assert described["source"] == str(tmp_path)
    assert described["weights"] == in_memory.provenance()["networks"]["vfm"]["weights"]


def test_a_picture_smaller_than_a_patch_of_the_vfm():
    clip = tiny_clip(layers=2)
    vfm = {"vfm": tiny_vfm(patch=16, image_size=64)}
    segmenter = Segmenter.from_pretrained(clip, "proxyclip", networks=vfm)
    with pytest.raises(WordmaskError, match=r"8 x 64 pixels for ViTModel.*16 x 16"):
        segmenter.encode(random(1, 3, 8, 64))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": 0.0}, "gamma=0.0"),
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"attention": "vv"}, "'vv'"),
        ({"facet": "tokens"}, "'tokens'"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(WordmaskError, match=words) as caught:
        create_method("proxyclip", None, options)
    assert "\n" not in str(caught.value)
