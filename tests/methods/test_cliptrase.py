"""CLIPtrase: the released code's numbers, its parts by hand, votes, and what may go wrong."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from places import GOLDEN
from tiny import class_scores, scored_of, tiny_clip, tiny_sam, tiny_vfm
from wordmask import Background, Segmenter, WordmaskError
from wordmask.methods import create_method
from wordmask.methods.cliptrase.clusters import dbscan, prototypes
from wordmask.methods.cliptrase.method import Regions, correlate, region_bias
from wordmask.region_vote import _RegionMeans
from wordmask.scoring import Scored
from wordmask.text_queries import TextQueries

FEATURES, COSINES = 5e-5, 1e-5
TUNED = {  # eps and min_samples with several clusters
    "a_native_112x112": (0.158, 3),
    "b_square_160x160": (0.966, 5),
    "c_rect_112x192": (0.458, 3),
}
CASES = list(TUNED)


def load(case: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "cliptrase" / case / "tensors.safetensors")


def close(ours: torch.Tensor, golden: torch.Tensor, tolerance: float) -> None:
    assert ours.shape == golden.shape
    difference = (ours - golden).abs().max().item()
    assert difference <= tolerance, f"differs by {difference:.1e}"


def tuned(case: str, **options) -> dict:
    eps, min_samples = TUNED[case]
    return {"eps": eps, "min_samples": min_samples, **options}


def same_clusters(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether labels agree exactly, up to renumbering; noise stays noise."""
    pairs = set(zip(ours.tolist(), theirs.tolist(), strict=True))
    one_to_one = len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    return one_to_one and all((a < 0) == (b < 0) for a, b in pairs)


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


def pictures(*shape: int, smooth: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    small = torch.randn(shape[0], 3, shape[1] // smooth, shape[2] // smooth, generator=generator)
    return F.interpolate(small, size=shape[1:], mode="bilinear")


def texts(count: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return F.normalize(torch.randn(count, 48, generator=generator), dim=-1)


# -- the released code ------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_features_and_cosines(case, golden_clip, golden_inputs):
    golden = load(case)
    segmenter = Segmenter.from_pretrained(golden_clip, "cliptrase")
    encoding = segmenter.encode(golden_inputs[f"image.{case}"])
    close(encoding.features[0].flatten(1).T, golden["features"][1:], FEATURES)
    close(encoding.state.class_token, golden["features"][:1], FEATURES)
    cosines = class_scores(segmenter, encoding, golden_inputs["text_features"])[0]
    close(cosines, golden["cosine"], COSINES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["default", "tuned"])
def test_clusters(case, name, golden_clip, golden_inputs):
    golden = load(case)
    options = tuned(case) if name == "tuned" else {"eps": 0.7, "min_samples": 3}
    segmenter = Segmenter.from_pretrained(golden_clip, "cliptrase", None, options)
    method, tower = segmenter.method, segmenter.tower
    trace = tower.trace(golden_inputs[f"image.{case}"], method.need(tower.depth))
    last_but_one = tower.depth - 1
    streams = [x[last_but_one] for x in (trace.queries, trace.keys, trace.values)]
    close(correlate(streams, "cosine", "mean")[0], golden["W"], COSINES)
    w, common, grid = method._correlations(segmenter.towers, trace, torch.empty(0))
    clean, labels = method._cluster(w[0], common[0], torch.empty(0))
    assert grid == tuple(golden["cosine"].shape[1:])
    close(clean, golden["W_denoised"], COSINES)
    assert same_clusters(labels, golden[f"dbscan_labels.{name}"])


@pytest.mark.parametrize("case", CASES[:2])
def test_prototypes_and_partition(case, golden_clip, golden_inputs):
    golden = load(case)
    segmenter = Segmenter.from_pretrained(golden_clip, "cliptrase", None, tuned(case))
    encoding = segmenter.encode(golden_inputs[f"image.{case}"])
    close(encoding.state.maps[0][1:], golden["prototypes"], COSINES)
    size = tuple(golden["partition"].shape)
    regions = segmenter.method.rule(encoding, 0).regions
    region = regions.rows(0, size[0], size).argmax(0) - 1
    assert (region == golden["partition"]).float().mean() >= 0.9995


@pytest.mark.parametrize("case", CASES[:2])
@pytest.mark.parametrize("name", ["plain", "cls_prior", "with_bg"])
def test_the_majority_decides(case, name, golden_clip, golden_inputs):
    golden, rows = load(case)[f"pred_majority.{name}"].numpy(), golden_inputs["text_features"]
    options = tuned(case, class_prior=name == "cls_prior")
    segmenter = Segmenter.from_pretrained(golden_clip, "cliptrase", None, options)
    background = rows[5:] if name == "with_bg" else None
    result = segmenter(golden_inputs[f"image.{case}"], rows[:5], background)[0]
    labels = np.where(result.labels == 0, 5, result.labels - 1)  # theirs: the background is last
    assert (labels == golden).mean() >= 0.9995


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["ade", "voc"])
def test_the_mean_logit_decides(case, name, golden_clip, golden_inputs):
    golden = load(case)[f"mean_logit.{name}"]
    options = tuned(case, class_prior=name == "voc")
    segmenter = Segmenter.from_pretrained(golden_clip, "cliptrase", "official-mean", options)
    texts = golden_inputs["text_features"][:5]
    (scored,) = segmenter.score(golden_inputs[f"image.{case}"], texts)
    scored = replace(scored, size=tuple(golden.shape[1:]))
    peak = golden.abs().max()
    close(segmenter.method.logit_scale * region_means(scored) / peak, golden / peak, COSINES)
    assert (scored.labels() - 1 == golden.argmax(0).numpy()).mean() >= 0.9995


def region_means(scored: Scored) -> torch.Tensor:
    regions = scored.rule._region_of_pixels(scored)
    return _RegionMeans(scored, regions).rows(0, scored.size[0], scored.size)


# -- semantic correlation recovery ------------------------------------------------------------


def streams(batch=2, heads=3, tokens=7, depth=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, heads, tokens, depth, generator=generator) for _ in range(3)]


def test_correlation_is_the_mean_of_the_heads_cosines():
    total = sum(F.cosine_similarity(s[:, :, :, None], s[:, :, None], dim=-1) for s in streams())
    close(correlate(streams(), "cosine", "mean"), total.mean(1) / 3, 1e-6)


def test_correlation_of_concatenated_heads():
    joined = [s.transpose(1, 2).flatten(2) for s in streams()]
    total = sum(F.cosine_similarity(s[:, :, None], s[:, None], dim=-1) for s in joined)
    close(correlate(streams(), "cosine", "concatenated"), total / 3, 1e-6)


def test_inner_product_is_scaled_as_attention_is():
    total = sum(s @ s.transpose(-1, -2) for s in streams())
    close(correlate(streams(), "inner", "mean"), total.mean(1) / 3 / 5**0.5, 1e-5)


@pytest.mark.parametrize("block", [-1, -2, -4])
def test_without_recovery_it_is_clip(clip, block):
    """CLIP's own attention in the chosen block, and the blocks after it as they are."""
    image = pictures(2, 64, 112)
    ours = Segmenter.from_pretrained(
        clip, "cliptrase", None, {"attention": "qk", "block": block, "position": "bicubic_offset"}
    ).encode(image)
    plain = Segmenter.from_pretrained(clip, "clip").encode(image)
    close(ours.features, plain.features, 2e-5)


@pytest.mark.parametrize("attention", ["streams", "correlation", "self"])
@pytest.mark.parametrize("block", [-1, -3])
def test_every_recovery_changes_features(clip, attention, block):
    image = pictures(1, 64, 112)
    options = {"attention": attention, "block": block}
    ours = Segmenter.from_pretrained(clip, "cliptrase", None, options).encode(image).features
    plain = Segmenter.from_pretrained(clip, "clip").encode(image).features
    assert torch.isfinite(ours).all()
    assert (ours - plain).abs().max() > 1e-2


def test_self_attention_is_the_values_alone(clip):
    method, _ = create_method("cliptrase", None, {"attention": "self"})
    tower = Segmenter.from_pretrained(clip, "cliptrase").tower
    trace = tower.trace(pictures(1, 64, 64), method.need(tower.depth))
    n = tower.depth
    x = trace.states[n - 1] + tower.block(n).output(trace.values[n])
    x = x + tower.block(n).feed_forward(x)
    close(method.features(tower, trace).features[0].flatten(1).T, tower.project(x)[0, 1:], 1e-5)


def test_attention_within_given_regions(clip):
    """Patches attend in their region alone, the class token everywhere; rows sum to 1."""
    method, _ = create_method("cliptrase", "paper")
    tower = Segmenter.from_pretrained(clip, "cliptrase").tower
    trace = tower.trace(pictures(1, 32, 48), method.need(tower.depth))
    regions = torch.tensor([[[0, 0, 0, 1, 1, 1]] * 4])
    shown = method.mixing_map(tower, trace, regions)[0, 0]
    apart = regions.flatten()[:, None] != regions.flatten()[None]
    assert (shown[1:, 1:][apart] == 0).all()
    assert (shown[1:, 1:][~apart] > 0).all()
    assert (shown[0] > 0).all()
    assert (shown[1:, 0] == 0).all()
    close(shown.sum(1), torch.ones(25), 1e-5)
    features = method.features(tower, trace, regions).features
    assert torch.isfinite(features).all()
    alone = torch.arange(24).view(1, 4, 6)  # each patch its own region: the values alone
    other, _ = create_method("cliptrase", "paper", {"attention": "self"})
    close(
        method.features(tower, trace, alone).features, other.features(tower, trace).features, 1e-4
    )


def test_a_higher_inverse_temperature_is_sharper(clip):
    tower = Segmenter.from_pretrained(clip, "cliptrase").tower

    def peak(**options) -> float:
        method, _ = create_method("cliptrase", "paper", options)
        trace = tower.trace(pictures(1, 32, 48), method.need(tower.depth))
        return method.mixing_map(tower, trace).amax(-1).mean().item()

    assert peak(inverse_temperature=1.0) < peak() < peak(inverse_temperature=50.0)
    assert peak() == peak(inverse_temperature=32**0.5)


def test_region_bias_by_hand():
    bias = region_bias(torch.tensor([[[0, 1]]]))[0, 0]
    inf = -torch.inf
    assert bias.tolist() == [[0, 0, 0], [inf, 0, inf], [inf, inf, 0]]


# -- clusters ---------------------------------------------------------------------------------


def test_two_groups_and_noise():
    rows = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2], [99.0]])
    assert dbscan(rows, 0.15, 3).tolist() == [0, 0, 0, 1, 1, 1, -1]
    assert dbscan(rows[:0], 0.15, 3).tolist() == []


def test_denoising_by_hand():
    w = torch.tensor([[1.0, 0.5, 0.2], [0.5, 1.0, 0.9], [0.2, 0.9, 1.0]])
    method, _ = create_method("cliptrase", None, {"eps": 0.01, "min_samples": 1})
    clean, _ = method._cluster(w, torch.tensor([0.4, 0.6, 0.5]), torch.empty(0))
    expected = torch.tensor([[0.6, 0.0, 0.0], [0.1, 0.4, 0.4], [0.0, 0.3, 0.5]])
    close(clean, expected, 1e-6)


def test_equation_7_drops_patches_that_others_fit_better():
    """Row 2 correlates less with itself than with the rest on average: it is in no cluster."""
    w = torch.tensor([[6.0, 3.9, 5.0], [3.9, 6.0, 5.0], [5.0, 5.0, 0.5]])
    options = {"correlation": "inner", "min_samples": 1, "normalize_rows": False, "eps": 4.0}
    method, _ = create_method("cliptrase", "paper", options)
    clean, labels = method._cluster(w, torch.zeros(3), torch.empty(0))
    assert torch.equal(clean, w)
    assert labels.tolist() == [0, 0, -1]
    dropped = w.clone().fill_diagonal_(-1)
    assert method._cluster(dropped, torch.zeros(3), torch.empty(0))[1].tolist() == [-1] * 3


def test_equation_7_drops_nothing_from_cosines():
    w = correlate(streams(tokens=40), "cosine", "mean")[0]
    assert (w.mean(1) <= w.diagonal()).all()


def test_prototypes_by_hand():
    w = torch.tensor([[1.0, 0.8, 0.0, 0.1], [0.8, 1.0, 0.2, 0.1], [0.0, 0.2, 1.0, 0.3], [0.0] * 4])
    maps = prototypes(w, torch.tensor([0, 0, 1, -1]), (1, 4), 0)
    close(maps[1:], torch.tensor([[[0.9, 0.9, 0.1, 0.1]], [[0.0, 0.2, 1.0, 0.3]]]), 1e-6)
    assert (maps[0] < maps[1:].min()).all()
    assert maps.argmax(0).tolist() == [[1, 1, 2, 2]]  # noise takes the nearest prototype
    enlarged = prototypes(w, torch.tensor([0, 0, 1, -1]), (1, 4), 3)
    assert enlarged.shape == (3, 4, 16)


def test_the_radius_grows_with_the_picture():
    """Both settings of the released code come out of one rule."""
    method, _ = create_method("cliptrase", "any-size")
    assert method._radius(441) == (1.1, 7)
    eps, min_samples = method._radius(196)
    assert abs(eps - 0.7) < 0.05
    assert min_samples == 3
    assert method._radius(1)[1] == 2
    assert create_method("cliptrase", "official")[0]._radius(196) == (1.1, 7)


def test_recovery_alone(clip):
    image = pictures(1, 48, 80)
    alone = Segmenter.from_pretrained(clip, "cliptrase", None, {"clusters": "none"})
    encoding = alone.encode(image)
    assert encoding.state.maps is None
    assert torch.equal(encoding.features, alone.with_method("cliptrase").encode(image).features)
    nothing = alone.with_method("cliptrase", None, {"eps": 1e-9})
    assert (alone(image, texts())[0].labels == nothing(image, texts())[0].labels).all()


def test_rows_are_normalised_where_asked():
    """Rows that differ in length alone are one cluster then, and two where they are not."""
    w = torch.tensor([[1.0, 0.0]] * 3 + [[9.0, 0.0]] * 3)
    for normalize, clusters in ((True, 1), (False, 2)):
        options = {"normalize_rows": normalize, "min_samples": 2, "eps": 0.5, "denoising": "none"}
        method, _ = create_method("cliptrase", None, options)
        _, labels = method._cluster(w, torch.zeros(6), torch.empty(0))
        assert len(labels.unique()) == clusters


def test_clusters_of_features(clip):
    """Features that come in two kinds make two clusters, whatever w is."""
    method, _ = create_method(
        "cliptrase", None, {"clusters": "features", "eps": 0.1, "min_samples": 2}
    )
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 7.0]])
    _, labels = method._cluster(torch.eye(4), torch.zeros(4), features)
    assert labels.tolist() == [0, 0, 1, 1]


def test_clusters_of_a_vfm_lie_on_its_grid(clip):
    options = {"clusters": "vfm", "eps": 0.3, "min_samples": 2, "median": 0}
    networks = {"vfm": tiny_vfm(patch=4, image_size=64)}
    segmenter = Segmenter.from_pretrained(clip, "cliptrase", None, options, networks=networks)
    encoding = segmenter.encode(pictures(1, 32, 48))
    assert encoding.state.maps[0].shape[1:] == (8, 12)
    assert encoding.grid == (4, 6)
    assert segmenter(encoding, texts())[0].labels.shape == (32, 48)
    features = segmenter.networks.vfm.features(segmenter_unit(segmenter, pictures(1, 32, 48)))
    unit = F.normalize(features[0].flatten(1), dim=0)
    w = (unit.T @ unit).relu()
    labels = dbscan(w, 0.3, 2)
    close(encoding.state.maps[0], prototypes(w, labels, (8, 12), 0), 1e-5)


def segmenter_unit(segmenter, pixels):
    std, mean = pixels.new_tensor([segmenter.tower.std, segmenter.tower.mean])[..., None, None]
    return pixels * std + mean


def test_the_auxiliary_models_that_it_needs():
    for options in ({}, {"clusters": "vfm"}, {"masks": "sam"}):
        method, _ = create_method("cliptrase", None, options)
        assert method.networks == tuple(options.values())


@pytest.mark.parametrize("version", [1, 2])
def test_clusters_prompt_sam(clip, version):
    """A cluster's patches are its points, the others' its negatives; beyond masks: no region."""
    options = {"masks": "sam", "eps": 0.8, "min_samples": 2}
    networks = {"sam": tiny_sam(version)}
    segmenter = Segmenter.from_pretrained(clip, "cliptrase", None, options, networks=networks)
    image = pictures(1, 48, 80, smooth=16)
    encoding = segmenter.encode(image)
    embedded = segmenter.networks.sam.embed(segmenter_unit(segmenter, image)[0])
    regions = encoding.state.maps[0]
    assert regions.shape[1:] == embedded.grid
    assert (regions[0] == 0).all()
    assert len(regions) > 2
    trace = segmenter.tower.trace(image, segmenter.method.need(8))
    w, common, _ = segmenter.method._correlations(segmenter.towers, trace, image)
    _, labels = segmenter.method._cluster(w[0], common[0], torch.empty(0))
    y, x = torch.meshgrid(torch.arange(6) * 8.0 + 4, torch.arange(10) * 8.0 + 4, indexing="ij")
    places = torch.stack([x, y], -1).flatten(0, 1)
    groups = [places[labels == k] for k in range(int(labels.max()) + 1)]
    close(regions[1:], embedded.separate(groups), 1e-5)
    assert segmenter(encoding, texts())[0].labels.shape == (48, 80)


# -- votes ------------------------------------------------------------------------------------


# three pixels of region 1, one of none
REGIONS = torch.tensor([[[0.0, 0.0, 0.0, 1.0]], [[1.0, 1.0, 1.0, 0.0]]])


def voted(vote: str, background: Background, scores: list) -> Scored:
    """A picture of 1 x 4 pixels, its scores of two classes, and REGIONS."""
    method, _ = create_method("cliptrase", None, {"vote": vote, "logit_scale": 1.0})
    texts = TextQueries.of([torch.eye(2)[:1], torch.eye(2)[1:]], strategy=background)
    state = Regions(torch.zeros(1, 2), (REGIONS,))
    maps = torch.tensor(scores, dtype=torch.float32)
    return scored_of(method, maps, texts, (1, 4), state)


def test_majority_by_hand():
    scores = [[[1, 1, 0, 0]], [[0, 0, 9, 1]]]
    labels = voted("majority", Background.none(), scores).labels()
    assert labels.tolist() == [[1, 1, 1, 2]]
    assert labels.dtype == np.uint8


def test_mean_by_hand():
    """One pixel that is very sure outvotes two that are not; outside of regions nothing changes."""
    scored = voted("mean", Background.none(), [[[1, 1, 0, 0]], [[0, 0, 9, 1]]])
    assert scored.labels().tolist() == [[2, 2, 2, 2]]
    close(region_means(scored), torch.tensor([[[2 / 3] * 3 + [0.0]], [[3.0] * 3 + [1.0]]]), 1e-6)


def test_the_background_has_a_vote():
    """Pixels below the threshold vote for the background, with the majority; with the mean the
    threshold meets the region's own probability."""
    scores = [[[0.1, 0.1, 9, 9]], [[0, 0, 0, 0]]]
    strict = Background.threshold(0.9)
    assert voted("majority", strict, scores).labels().tolist() == [[0, 0, 0, 1]]
    assert voted("mean", strict, scores).labels().tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize("vote", ["majority", "mean"])
def test_votes_do_not_depend_on_the_blocks(clip, vote):
    options = {"vote": vote, "eps": 0.8, "min_samples": 2}
    segmenter = Segmenter.from_pretrained(clip, "cliptrase", None, options)
    encoding = segmenter.encode(pictures(1, 48, 80, smooth=16))
    assert len(encoding.state.maps[0]) > 2
    scored = replace(segmenter.score(encoding, texts())[0], size=(97, 61))
    whole = scored.labels()
    rows = replace(scored, block_bytes=1)
    assert (rows.labels() == whole).all()
    plain = replace(rows, rule=scored.rule.pixelwise).labels()
    assert (plain != whole).any()
    region = scored.rule.regions.rows(0, 97, (97, 61)).argmax(0).numpy()
    assert region.min() >= 1  # prototypes cover all
    for k in np.unique(region):
        assert len(np.unique(whole[region == k])) == 1


@pytest.mark.parametrize("vote", ["majority", "mean"])
def test_nothing_clustered_is_plain_argmax(clip, vote):
    segmenter = Segmenter.from_pretrained(clip, "cliptrase", None, {"eps": 1e-9, "vote": vote})
    encoding = segmenter.encode(pictures(1, 48, 80))
    assert len(encoding.state.maps[0]) == 1
    result = segmenter(encoding, texts())[0].labels
    scored = segmenter.score(encoding, texts())[0]
    plain = replace(scored, rule=scored.rule.pixelwise).labels()
    assert (result == plain).all()
    assert len(np.unique(plain)) > 1


def test_pictures_of_a_batch_have_their_own_regions(clip, monkeypatch):
    segmenter = Segmenter.from_pretrained(clip, "cliptrase", None, {"eps": 0.8, "min_samples": 2})
    image = torch.cat([pictures(1, 48, 80, smooth=16), pictures(2, 48, 80)[1:]])
    parts = segmenter.encode(image)
    monkeypatch.setattr("wordmask.pipeline.CPU_BATCH", 8)
    batch = segmenter.encode(image)
    assert len(parts.state.maps) == len(batch.state.maps) == 2
    for i in range(2):
        single = segmenter.encode(image[i : i + 1]).state.maps[0]
        close(batch.state.maps[i], single, 1e-4)
        close(parts.state.maps[i], single, 1e-4)
    labels = [r.labels for r in segmenter(batch, texts())]
    assert (labels[0] == segmenter(image[:1], texts())[0].labels).all()


def test_windows_keep_the_clusters_of_the_whole_picture(clip):
    options = {"eps": 0.8, "min_samples": 2}
    image = pictures(1, 96, 160, smooth=16)
    whole = Segmenter.from_pretrained(clip, "cliptrase", None, options).encode(image)
    segmenter = Segmenter.from_pretrained(
        clip, "cliptrase", None, {**options, "window": 64, "stride": 32}
    )
    windows = segmenter.encode(image)
    assert torch.equal(windows.state.maps[0], whole.state.maps[0])
    assert windows.grid == (12, 20)
    assert not torch.allclose(windows.features, whole.features, atol=1e-2)
    corner = Segmenter.from_pretrained(clip, "cliptrase").encode(image[..., :64, :64]).features
    first = F.normalize(corner[0, :, 0, 0], dim=0)  # a patch in one window alone
    close(windows.features[0, :, 0, 0], first, 1e-5)


# -- what may go wrong ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(5, 3), (8, 8), (8, 200), (300, 9)])
@pytest.mark.parametrize("variant", ["any-size", "official", "official-mean", "paper"])
def test_pictures_of_any_size(clip, size, variant):
    picture = PIL.Image.fromarray(np.full((*size, 3), 90, np.uint8))
    options = {"short_side": 16, "long_side": 64, "templates": "single"}
    segmenter = Segmenter.from_pretrained(clip, "cliptrase", variant, options)
    assert segmenter(picture, texts()).labels.shape == size


def test_a_picture_of_one_patch(clip):
    segmenter = Segmenter.from_pretrained(clip, "cliptrase", None, {"min_samples": 1})
    result = segmenter(pictures(1, 8, 8), texts())[0]
    assert len(np.unique(result.labels)) == 1


def test_without_scikit_learn(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(WordmaskError) as caught:
        Segmenter.from_pretrained(clip, "cliptrase").encode(pictures(1, 32, 32))
    assert 'pip install "wordmask[cluster]"' in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": 0.0}, "eps=0.0"),
        ({"eps": "much"}, "float or none"),
        ({"min_samples": 0}, "min_samples=0"),
        ({"median": -1}, "median=-1"),
        ({"block": 0}, "count from the end"),
        ({"cluster_block": 11}, "cluster_block=11"),
        ({"clusters": "dino"}, '"vfm"'),
        ({"vote": "all"}, '"majority"'),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(WordmaskError) as caught:
        create_method("cliptrase", None, options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_windows_are_whole_patches(clip):
    segmenter = Segmenter.from_pretrained(clip, "cliptrase", None, {"window": 60, "stride": 20})
    with pytest.raises(WordmaskError, match="whole patches of 8 pixels"):
        segmenter.encode(pictures(1, 112, 112))
