"""CorrCLIP: the released code's numbers, its parts by hand, windows, and what may go wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from places import GOLDEN
from tiny import tiny_clip, tiny_vfm
from wordmask import Background, Segmenter, WordmaskError
from wordmask.methods import create_method
from wordmask.methods.base import cosine
from wordmask.methods.corrclip import (
    RegionAttention,
    merge_regions,
    region_tokens,
    spatial_states,
)
from wordmask.region_vote import take_majority
from wordmask.towers.clip import ClipTower, Need

FEATURES, COSINES = 5e-5, 1e-5
CASES = ["a_native_112x112", "b_square_160x160", "c_rect_112x192"]
KINDS = ["partial", "full.as_released", "full.repaired", "single"]
GIVEN = [  # the last is recorded for one case alone
    (case, kind) for case in CASES for kind in KINDS if kind != "single" or case == CASES[0]
]


class Features:
    """A VFM that sees what was recorded."""

    def __init__(self, features: torch.Tensor):
        self.given = features[None]
        self.model = torch.nn.Linear(1, 1)  # of which the hash is taken

    def features(self, pictures: torch.Tensor, facet: str) -> torch.Tensor:
        assert facet == "queries+keys"
        return self.given


def load(case: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "corrclip" / case / "tensors.safetensors")


def close(ours: torch.Tensor, golden: torch.Tensor, tolerance: float) -> None:
    assert ours.shape == golden.shape
    difference = (ours - golden).abs().max().item()
    assert difference <= tolerance, f"differs by {difference:.1e}"


def same_partition(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    pairs = set(zip(ours.flatten().tolist(), theirs.flatten().tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.fixture(params=GIVEN, ids="-".join)
def released(request, golden_clip, golden_inputs):
    """The golden tensors of a case without their prefix, the segmenter, and its encoding."""
    case, kind = request.param
    given = kind.partition(".")[0]
    tensors = load(case)
    golden = {k.removeprefix(f"{kind}."): v for k, v in tensors.items() if k.startswith(kind)}
    golden |= {name: tensors[f"{given}.{name}"] for name in ("regions", "vfm_features")}
    variant = "official" if kind == "full.as_released" else "repaired"
    segmenter = Segmenter.from_pretrained(golden_clip, "corrclip", variant)
    segmenter.networks._loaded["vfm"] = Features(golden["vfm_features"])
    pixels = golden_inputs[f"image.{case}"]
    size = (pixels.shape[2], pixels.shape[3])
    encoding = segmenter.pipeline.encode(pixels, [size], regions=golden["regions"][None].long())
    return golden, segmenter, encoding


def test_golden_features(released, golden_inputs):
    golden, _segmenter, encoding = released
    close(encoding.features[0].flatten(1).T, golden["features"], FEATURES)
    scores = cosine(encoding.features, golden_inputs["text_features"])
    close(scores[0], golden["cosine"], COSINES)


def test_golden_inside(released):
    golden, segmenter, encoding = released
    method, towers = segmenter.method, segmenter.towers
    trace = method.trace(
        towers, encoding.pixels, method.need(towers.clip.depth), encoding.regions[0][None]
    )
    merged, attention = method._scope(trace, 0)
    assert same_partition(merged, golden["merged_regions"])
    if "scope" in golden:
        assert torch.equal(attention.scope(slice(None))[1], golden["scope"].bool())
    if "attention" in golden:
        close(attention.dense(), golden["attention"], COSINES)
    for name, (spatial, semantic) in {
        "main": (0, 0),
        "spatial": (1, 0),
        "semantic": (0, 1),
    }.items():
        if f"features.{name}" not in golden:
            continue
        only = replace(method, spatial_weight=float(spatial), semantic_weight=float(semantic))
        ours = only.features(towers.clip, trace).features[0].flatten(1).T
        if name != "main":
            ours = ours - golden["features.main"]
        close(ours, golden[f"features.{name}"], FEATURES)


def test_golden_map_correction(released, golden_inputs):
    """Labels before and after it, with synonyms and a threshold as they were recorded."""
    golden, segmenter, encoding = released
    rows = golden_inputs["text_features"]
    words = {
        f"class {i}": rows[part] for i, part in enumerate([[0, 3, 4], [1], [2], [5], [6], [7]])
    }
    plain = segmenter.with_method(replace(segmenter.method, correction=False))
    labels = [
        one.score(encoding, words, Background.none())[0].labels().astype(int) - 1
        for one in (plain, segmenter)
    ]
    (scored,) = plain.score(encoding, words, Background.none())
    size = labels[0].shape
    p = scored.rule.probability(scored.maps.rows(0, size[0], size), scored.texts)
    before = p.max(0).indices.masked_fill(p.amax(0) < 0.16, 0)
    assert torch.equal(before, golden["map_correction.before"].long())
    rule = segmenter.pipeline.rule(encoding, 0)
    after = take_majority(before.numpy(), rule._region_of_pixels(scored).numpy())
    assert np.array_equal(after, golden["map_correction.after"].numpy())
    assert np.array_equal(
        labels[1], take_majority(labels[0], rule._region_of_pixels(scored).numpy())
    )


# -- by hand ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip():
    return tiny_clip(layers=4)


@pytest.fixture(scope="module")
def texts():
    rows = torch.randn(4, 48, generator=torch.Generator().manual_seed(1))
    return F.normalize(rows, dim=-1)


def photo(height: int = 48, width: int = 80, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    return small.repeat(16, axis=0).repeat(16, axis=1)[:height, :width].copy()


def segmenter_of(clip, variant=None, **options) -> Segmenter:
    given = {"short_side": None} | options
    return Segmenter.from_pretrained(
        clip, "corrclip", variant, options=given, networks={"vfm": tiny_vfm()}
    )


def test_regions_are_joined_through_others():
    def at(degrees: float) -> list[float]:
        angle = torch.tensor(degrees).deg2rad()
        return [float(angle.cos()), float(angle.sin())]

    unit = torch.tensor([at(0), at(0), at(30), at(60), at(150), at(5)])
    regions = torch.tensor([3, 3, 8, 9, 20, 0])
    joined = merge_regions(regions, unit, 0.2).tolist()  # cos 30 = 0.87
    assert joined[0] == joined[1] == joined[2] == joined[3] != joined[4]
    assert joined[5] == 0
    assert merge_regions(regions, unit, 0.0) is regions
    alone = torch.tensor([0, 7, 7, 7, 7, 7])
    assert merge_regions(alone, unit, 0.2) is alone


def test_scope_by_hand():
    """Patches of one region attend; one in none by similarity, both ways; each to itself."""
    unit = F.normalize(torch.tensor([[1.0, 0], [0, 1], [1, 0.1], [0.1, 1]]), dim=-1)
    attention = RegionAttention(unit, torch.tensor([1, 1, 2, 0]), 4.0)
    similarity, allowed = attention.scope(slice(None))
    assert allowed.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1]]
    weights = attention.dense()
    assert torch.allclose(weights.sum(1), torch.ones(4))
    assert torch.allclose(weights[0, 0] / weights[0, 1], (4 * (1 - similarity[0, 1])).exp())
    same = RegionAttention(torch.ones(3, 1), torch.zeros(3).int(), 4.0)  # no contrast at all
    assert torch.equal(same.dense(), torch.eye(3))


def test_a_token_of_the_whole_picture_is_the_class_token_but_for_itself(clip):
    """A token of all patches sees what the class token sees: its output is F^N's class token."""
    tower = ClipTower(clip)
    n = tower.depth
    pixels = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    need = Need.of([0, n], dict.fromkeys(range(1, n + 1), "kv"))
    trace = tower.trace(pixels, need)
    members = torch.ones(2, 15, dtype=torch.bool)
    members[1, :4] = False
    tokens = region_tokens(tower, trace, 1, members)
    assert torch.allclose(tokens[0], trace.states[n][1, 0], atol=1e-4)
    assert (tokens[1] - tokens[0]).abs().max() > 1e-2
    none = region_tokens(tower, trace, 1, torch.zeros(1, 15, dtype=torch.bool))  # the class alone
    assert torch.isfinite(none).all()


@pytest.mark.parametrize(
    ("depth", "first", "last"),
    [(12, 6, 10), (24, 11, 22), (32, 3, 30), (8, 3, 6), (5, 3, 3), (4, 2, 2), (2, 0, 0), (1, 0, 0)],
)
def test_blocks_of_other_depths(depth, first, last):
    states = spatial_states(depth)
    assert (states[0], states[-1]) == (first, last)


# -- as a method ----------------------------------------------------------------------------------


def test_regions_of_the_whole_picture_are_cut_into_windows(clip, texts, tmp_path):
    """The map of a folder, of a picture in windows: the same as of each window by itself."""
    image, regions = photo(), np.arange(15).reshape(3, 5).repeat(16, 0).repeat(16, 1)
    PIL.Image.fromarray(image).save(tmp_path / "one.png")
    (tmp_path / "maps").mkdir()
    np.savez(tmp_path / "maps" / "one.npz", regions)
    options = {"region_maps": str(tmp_path / "maps")}
    sliding = segmenter_of(clip, window=48, stride=32, **options)
    encoding = sliding.encode(tmp_path / "one.png")
    assert len(encoding.windows) == 2
    whole = segmenter_of(clip)
    for window, features in zip(encoding.windows, encoding.features, strict=True):
        across = slice(window.left, window.left + window.width)
        alone = whole.encode(image[:, across].copy(), regions=regions[:, across].copy())
        assert torch.allclose(alone.features[0], features, atol=1e-4)
    labels = sliding(encoding, texts, "none").labels
    ids = regions.ravel()
    for number in range(1, 15):
        assert len(np.unique(labels.ravel()[ids == number])) == 1
    with pytest.raises(WordmaskError, match="picture in memory"):
        sliding(image, texts)


@pytest.mark.parametrize("variant", ["repaired", "official"])
@pytest.mark.parametrize("regions", ["none", "one", "two"])
@pytest.mark.parametrize("size", [(8, 8), (8, 40), (32, 24)])
def test_few_regions_and_patches(clip, texts, variant, regions, size):
    given = np.full(size, {"none": 0, "one": 5, "two": 5}[regions])
    if regions == "two":
        given[:, size[1] // 2 :] = 9
    segmenter = segmenter_of(clip, variant)
    encoding = segmenter.encode(photo(*size), regions=given)
    assert torch.isfinite(encoding.features).all()
    labels = segmenter(encoding, texts, "none").labels
    assert labels.shape == size
    if regions != "none" and variant == "repaired":
        assert len(np.unique(labels[given == 5])) == 1
    if regions == "one":  # the smallest number is no region
        encoded = segmenter.pipeline.rule(encoding, 0).regions
        assert bool(encoded.any()) == (variant == "repaired")


def test_a_picture_without_contrast(clip, texts):
    segmenter = segmenter_of(clip)
    assert torch.isfinite(segmenter.encode(np.full((32, 32, 3), 7, np.uint8)).features).all()


def test_regions_may_have_any_numbers(clip, texts):
    """Colours as numbers cost no memory; below 0 is no region, as in a folder of maps."""
    given = np.zeros((48, 80), int)
    given[:, 40:] = 1
    segmenter = segmenter_of(clip)
    encoding = segmenter.encode(photo(), regions=given)
    other = segmenter.encode(photo(), regions=np.where(given, 255 * 65536, -1))
    assert torch.equal(encoding.features, other.features)
    assert int(other.regions[0].max()) == 1
    labels = [segmenter(one, texts, "none").labels for one in (encoding, other)]
    assert (labels[0] == labels[1]).all()


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_regions_are_integers(clip, value):
    with pytest.raises(WordmaskError, match=r"got regions of type float64; give integers"):
        segmenter_of(clip).encode(photo(), np.full((48, 80), value))


def test_a_map_of_the_wrong_size(clip):
    with pytest.raises(WordmaskError, match="regions of 4 x 4 pixels for a picture of 80 x 48"):
        segmenter_of(clip).encode(photo(), regions=np.zeros((4, 4), int))


def test_padding_is_a_region_of_its_own(clip, monkeypatch):
    options = {"whole_patches": False, "remainder": "pad"}
    segmenter = segmenter_of(clip, **options)
    seen = []
    encode = type(segmenter.method).encode

    def spy(self, towers, pixels, regions=None):
        seen.append(regions)
        return encode(self, towers, pixels, regions)

    monkeypatch.setattr(type(segmenter.method), "encode", spy)
    encoding = segmenter.encode(photo(45, 48), regions=np.full((45, 48), 3))
    (regions,) = seen
    assert encoding.pad == (1, 0, 2, 0)
    assert regions[0, :, 0].tolist() == [2] + [1] * 45 + [2, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"region_maps": "nowhere"}, ["'nowhere'"]),
        ({"merge": 3.0}, ["merge=3.0"]),
        ({"gamma": 0.0}, ["gamma=0.0"]),
        ({"spatial_blocks": (3, 2)}, ["spatial_blocks=(3, 2)"]),
        ({"spatial_blocks": (1,)}, ["spatial_blocks=(1,)"]),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(WordmaskError) as error:
        create_method("corrclip", None, options)
    assert all(word in str(error.value) for word in words)
