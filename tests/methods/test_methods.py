"""What must hold for every registered method: a method is tested by being registered."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tiny import class_scores, tiny_clip, tiny_vfm
from tiny_families import tiny_blip
from wordmask import Background, Segmenter, WordmaskError, list_methods
from wordmask.affinity import Sinkhorn
from wordmask.batch.encodings import keep_passes
from wordmask.methods import METHODS, create_method, parse_option, rf_clip, sc_clip
from wordmask.text_queries import TextQueries
from wordmask.towers.clip import ClipTower, Need

VARIANTS = [(name, variant) for name in list_methods() for variant in METHODS[name].variants]
WORDS = 5
NETWORKS = {"vfm": tiny_vfm()}  # auxiliary models
# Features that depend on labels of a first pass: another word makes other pixels unsure, and one
# label that flips changes those of its region. What the words do is in test_resclip.py.
# Scores that all words together spread over the picture: test_pearl.py.
NO_FEEDBACK = {"resclip": {"sfr_scale": 1.0, "sfr_share": 0.0}, "pearl": {"grid": 0}}


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(1)
    return torch.nn.functional.normalize(torch.randn(WORDS, 48, generator=generator), dim=-1)


def pictures(*shape: int, smooth: int = 8) -> torch.Tensor:
    """Smooth pictures, so that labels are not noise: random at a fraction of the size, enlarged."""
    generator = torch.Generator().manual_seed(7)
    small = torch.randn(shape[0], 3, shape[1] // smooth, shape[2] // smooth, generator=generator)
    return torch.nn.functional.interpolate(small, size=shape[1:], mode="bilinear")


def segmenter_of(clip, method, variant=None, options=None):
    return Segmenter.from_pretrained(clip, method, variant, options, networks=NETWORKS)


def scores_of(clip, method, variant, image, texts, background="none", options=None):
    segmenter = segmenter_of(clip, method, variant, options)
    encoding = segmenter.encode(image)
    return class_scores(segmenter, encoding, texts, background), encoding


@pytest.mark.parametrize(("method", "variant"), VARIANTS)
class TestEveryMethod:
    def test_batch_equals_singles(self, clip, texts, method, variant, monkeypatch):
        monkeypatch.setattr("wordmask.pipeline.CPU_BATCH", 8)  # as on a GPU
        image = pictures(3, 112, 112)
        batch, encoding = scores_of(clip, method, variant, image, texts)
        assert encoding.features.shape[:2] == (3, 48)
        for i in range(3):
            single, one = scores_of(clip, method, variant, image[i : i + 1], texts)
            assert torch.allclose(single[0], batch[i], atol=1e-5, rtol=0)
            assert torch.allclose(one.features[0], encoding.features[i], atol=1e-5, rtol=0)
        segmenter = segmenter_of(clip, method, variant)
        parts = [class_scores(segmenter, part, texts)[0] for part in encoding.split()]
        assert torch.allclose(torch.stack(parts), batch, atol=1e-5, rtol=0)

    def test_passes_that_were_kept(self, clip, texts, method, variant, tmp_path, monkeypatch):
        """Scores as without, but for float16; the second time no pass is made."""
        segmenter = segmenter_of(clip, method, variant)
        image = pictures(1, 112, 112)
        plain = class_scores(segmenter, segmenter.encode(image), texts)
        if method == "rf_clip":
            with pytest.raises(WordmaskError, match="changes the pass itself"):
                keep_passes(segmenter, tmp_path)
            return
        kept = keep_passes(segmenter, tmp_path)
        first = kept.encode(image)
        assert kept.tower.passes > 0
        with monkeypatch.context() as patched:
            patched.setattr(ClipTower, "trace", None)
            second = kept.encode(image)
        assert torch.equal(first.features, second.features)
        again = class_scores(kept, second, texts)
        assert (plain - again).abs().mean() < 0.005 * plain.abs().max()

    def test_permuting_classes_permutes_the_result(self, clip, texts, method, variant):
        order = torch.tensor([3, 0, 4, 1, 2])
        # as released, unsure pixels get the first word
        in_any_order = {"label_threshold": 0.0} if variant == "official" else {}
        segmenter = segmenter_of(clip, method, variant, {"resclip": in_any_order}.get(method))
        encoding = segmenter.encode(pictures(1, 112, 112))
        scores = class_scores(segmenter, encoding, texts)
        permuted = class_scores(segmenter, encoding, texts[order])
        assert torch.allclose(permuted, scores[:, order], atol=1e-5, rtol=0)
        labels = segmenter(encoding, texts)[0].labels
        assert (order.numpy()[segmenter(encoding, texts[order])[0].labels - 1] == labels - 1).all()

    @pytest.mark.parametrize("size", [(112, 192), (192, 112)])
    def test_pictures_that_are_not_square(self, clip, texts, method, variant, size):
        scores, encoding = scores_of(clip, method, variant, pictures(1, *size), texts)
        assert encoding.grid == (size[0] // 8, size[1] // 8)
        assert scores.shape == (1, WORDS, *encoding.grid)

    def test_rows_and_columns_are_not_swapped(self, clip, texts, method, variant):
        """A picture whose halves differ has features whose halves differ, on the right axis."""
        image = torch.zeros(1, 3, 64, 128)
        image[..., 64:] = 2.0
        # all patches of the random VFM are like each other: one mean for all
        options = {"gla_clip": {"similar": 0.99}}.get(method)
        _, encoding = scores_of(clip, method, variant, image, texts, options=options)
        f = encoding.features[0]
        across = (f[:, :, :6].mean((1, 2)) - f[:, :, -6:].mean((1, 2))).norm()
        down = (f[:, :3].mean((1, 2)) - f[:, -3:].mean((1, 2))).norm()
        assert across > down

    def test_a_constant_picture_gives_numbers(self, clip, texts, method, variant):
        scores, _ = scores_of(clip, method, variant, torch.zeros(1, 3, 64, 64), texts)
        assert torch.isfinite(scores).all()

    def test_deterministic(self, clip, texts, method, variant):
        image = pictures(1, 112, 112)
        first, _ = scores_of(clip, method, variant, image, texts)
        second, _ = scores_of(clip, method, variant, image, texts)
        assert torch.equal(first, second)

    def test_nothing_is_left_behind(self, clip, texts, method, variant):
        before = {k: v.clone() for k, v in clip.state_dict().items()}
        modules = list(clip.modules())
        segmenter = segmenter_of(clip, method, variant)
        segmenter(pictures(1, 64, 112), texts)
        assert list(clip.modules()) == modules
        assert not any(
            m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in clip.modules()
        )
        after = clip.state_dict()
        assert all(torch.equal(before[k], after[k]) for k in before)
        assert not clip.training

    def test_fused_equals_explicit(self, clip, texts, method, variant):
        segmenter = segmenter_of(clip, method, variant)
        fused = segmenter.encode(pictures(2, 64, 112)).features
        segmenter.tower.fused = False
        explicit = segmenter.encode(pictures(2, 64, 112)).features
        assert torch.allclose(fused, explicit, atol=2e-5, rtol=0)

    def test_the_map_that_is_shown_is_the_map_that_mixes(self, clip, texts, method, variant):
        """Rows of `mixing_map` are weights: not negative, with one sum."""
        segmenter = segmenter_of(clip, method, variant)
        chosen, tower = segmenter.method, segmenter.tower
        image = pictures(2, 64, 112)
        trace = chosen.trace(segmenter.towers, image, chosen.need(tower.depth))
        shown = chosen.mixing_map(tower, trace)
        assert shown.shape[0] == 2
        assert shown.shape[2:] == (113, 113)
        assert (shown >= 0).all()
        sums = shown.sum(-1)
        assert torch.allclose(sums, sums.mean().expand_as(sums), atol=1e-4)

    def test_bfloat16_agrees(self, texts, method, variant):
        clip, image = tiny_clip(), pictures(1, 160, 160, smooth=32)
        # a region whose two best classes are close may flip as a whole: no clusters here; and so
        # may a box: these maps have parts near 0.7, the threshold of the other variant
        # SC-CLIP's aggregated patches plus a random class token are nearly equal: less of both
        options = NO_FEEDBACK | {
            "cliptrase": {"eps": 1e-9},
            "clip_es": {"box_threshold": 0.4},
            "sc_clip": {"beta": 0.8, "class_weight": 0.0},
        }
        options = options.get(method)
        full = segmenter_of(clip, method, variant, options)(image, texts)[0].labels
        clip.bfloat16()
        half = segmenter_of(clip, method, variant, options)(image, texts)[0].labels
        # ResCLIP without the residual rounds two attentions: 1.3 % of these labels, on borders
        assert (full == half).mean() >= (0.98 if method == "resclip" else 0.99)

    def test_more_pictures_than_a_batch(self, clip, texts, method, variant, monkeypatch):
        image = pictures(5, 64, 64)
        monkeypatch.setattr("wordmask.pipeline.CPU_BATCH", 8)
        whole, _ = scores_of(clip, method, variant, image, texts)
        monkeypatch.setattr("wordmask.pipeline.CPU_BATCH", 2)
        parts, _ = scores_of(clip, method, variant, image, texts)
        assert torch.allclose(whole, parts, atol=1e-5, rtol=0)

    def test_windows(self, clip, texts, method, variant):
        """Windows run, keep the size, and one window that covers all is the whole picture."""
        image = pictures(2, 96, 160)
        options = {"window": 64, "stride": 32}
        segmenter = segmenter_of(clip, method, variant, options)
        encoding = segmenter.encode(image)
        assert class_scores(segmenter, encoding, texts).shape == (2, WORDS, 12, 20)
        results = segmenter(encoding, texts)
        assert [r.labels.shape for r in results] == [(96, 160), (96, 160)]
        one, _ = scores_of(clip, method, variant, image, texts, options={"window": 512})
        plain, _ = scores_of(clip, method, variant, image, texts)
        assert torch.equal(one, plain)

    def test_backgrounds(self, clip, texts, method, variant):
        segmenter = segmenter_of(clip, method, variant, NO_FEEDBACK.get(method))
        encoding = segmenter.encode(pictures(1, 64, 64))
        none = segmenter(encoding, texts, Background.none())[0].labels
        assert none.max() <= WORDS
        assert none.min() >= 1
        if not METHODS[method].class_maps:
            first = none.flat[0]  # a background row equal to its text takes all of its pixels
            taken = segmenter(encoding, texts, texts[first - 1 : first])[0].labels
            if variant == "feature-surgery":  # equal rows may differ in their last bit there
                taken = np.where(taken == first, 0, taken)
            assert (taken == np.where(none == first, 0, none)).all()
        rest = segmenter(encoding, texts, Background.complement(1e-6))[0].labels
        assert ((rest == 0) | (rest == none)).all()


def test_a_name_given_twice_changes_nothing(clip):
    """Synonyms that are one vector: pooled to the class, whatever the method."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.nn.functional.normalize(torch.randn(3, 48, generator=generator), dim=-1)
    for name in list_methods():
        segmenter = segmenter_of(clip, name)
        encoding = segmenter.encode(pictures(1, 64, 64))
        once = TextQueries.of([rows[:1], rows[1:2], rows[2:]])
        twice = TextQueries.of([rows[:1], rows[[1, 1]], rows[2:]])
        a, b = (segmenter.score(encoding, texts)[0].class_maps() for texts in (once, twice))
        # a softmax over names counts a doubled name twice: the order stays, the numbers need not
        if not METHODS[name].class_maps:
            assert torch.equal(a.argmax(0), b.argmax(0))


# -- options ------------------------------------------------------------


def test_names_of_methods():
    assert list_methods() == sorted(
        [
            "car",
            "clip",
            "clip_es",
            "clip_surgery",
            "cliper",
            "cliptrase",
            "clearclip",
            "corrclip",
            "gem",
            "gla_clip",
            "maskclip",
            "naclip",
            "ov_stitcher",
            "pearl",
            "proxyclip",
            "resclip",
            "rf_clip",
            "sc_clip",
            "sclip",
        ]
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: create_method("clipper"), ["unknown method 'clipper'", "cliper"]),
        (lambda: create_method("cliper", "official-v3"), ["unknown variant", "official-v2"]),
        (lambda: create_method("sclip", None, {"residul": 1}), ["'residul'", "residual"]),
        (lambda: create_method("sclip", None, {"residual": 1}), ["residual", "1", "bool"]),
        (lambda: create_method("clearclip", None, {"attention": "xx"}), ["'xx'", '"qq"']),
        (lambda: create_method("clearclip", None, {"residual_beta": 2.0}), ["residual_beta=2.0"]),
        (lambda: create_method("gem", None, {"depth": 1}), ["depth=1"]),
        (lambda: create_method("cliper", None, {"select_layer": 2}), ["select_layer=2"]),
        (lambda: create_method("cliper", None, {"attention_threshold": 1.0}), ["=1.0"]),
        (lambda: create_method("naclip", None, {"sigma": 0.0}), ["sigma=0.0"]),
        (lambda: create_method("sc_clip", None, {"levels": (5, 3)}), ["levels=(5, 3)"]),
        (lambda: create_method("sc_clip", None, {"early_block": 0}), ["early_block=0"]),
        (lambda: create_method("sc_clip", None, {"beta": 1.0}), ["beta=1.0"]),
        (lambda: create_method("rf_clip", None, {"text_shift": 1.0}), ["text_shift=1.0"]),
        (lambda: create_method("rf_clip", None, {"sigma": 0.0}), ["sigma=0.0"]),
        (lambda: create_method("rf_clip", None, {"sink_channels": (-1,)}), ["(-1,)"]),
        (lambda: create_method("pearl", None, {"key_weight": -1.0}), ["key_weight=-1.0"]),
        (lambda: create_method("pearl", None, {"grid": -80}), ["grid=-80"]),
        (lambda: create_method("resclip", None, {"rcs_share": 1.5}), ["rcs_share=1.5"]),
        (lambda: create_method("resclip", None, {"sfr_scale": 0.0}), ["sfr_scale=0.0"]),
        (lambda: create_method("resclip", None, {"blocks": (0, 3)}), ["blocks=(0, 3)"]),
        (lambda: create_method("sclip", None, {"window": -1}), ["window=-1"]),
        (lambda: create_method("sclip", None, {"short_side": 0}), ["short_side=0"]),
        (lambda: parse_option("sclip", "residual"), ["option=value"]),
        (lambda: parse_option("sclip", "residual=maybe"), ["maybe", "bool"]),
        (lambda: parse_option("nothing", "a=b"), ["unknown method"]),
        (lambda: parse_option("sclip", "widow=3"), ["unknown option", "window"]),
    ],
)
def test_wrong_options(call, words):
    with pytest.raises(WordmaskError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("residual=false", False),
        ("residual=Yes", True),
        ("short_side=none", None),
        ("short_side=448", 448),
        ("logit_scale=50", 50),
        ("mean=(0.5,0.5,0.5)", (0.5, 0.5, 0.5)),
        ("templates=single", "single"),
        ("position=bilinear", "bilinear"),
    ],
)
def test_options_from_the_command_line(text, value):
    assert parse_option("sclip", text) == (text.split("=")[0], value)


def test_every_variant_changes_known_options():
    for name, method in METHODS.items():
        known = {f.name for f in dataclasses.fields(method)}
        for variant, options in method.variants.items():
            assert set(options) <= known, (name, variant)


# -- single papers ------------------------------------------------------------


def test_clearclip_beta_runs_from_all_channels_to_none(clip, texts):
    image = pictures(1, 64, 64)
    kept = {"residual": True}

    def features(**options):
        return scores_of(clip, "clearclip", None, image, texts, options=options)[1].features

    assert torch.equal(features(**kept, residual_beta=0.0), features(**kept))
    assert torch.allclose(features(**kept, residual_beta=1.0), features(), atol=1e-6)
    half = features(**kept, residual_beta=0.5)
    assert not torch.allclose(half, features(), atol=1e-3)
    assert not torch.allclose(half, features(**kept), atol=1e-3)
    assert not torch.allclose(features(**kept, residual_norm=True), features(**kept), atol=1e-3)


def test_clearclip_beta_drops_the_strongest_channels(clip):
    method, _ = create_method("clearclip", None, {"residual": True, "residual_beta": 0.25})
    x = torch.tensor([[[1.0, -9.0, 2.0, 3.0], [1.0, -9.0, 2.0, 3.0]]])
    assert method._residual(x).tolist() == [[[1.0, 0.0, 2.0, 3.0]] * 2]


def test_sinkhorn_is_repeated_division():
    p = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)).double() + 0.1
    fusion, b = Sinkhorn(p), p.clone()
    for _ in range(4):
        b = b / b.sum(-2, keepdim=True)
        b = b / b.sum(-1, keepdim=True)
        s = (b + b.transpose(-1, -2)) / 2
        kept = torch.relu(s - s.mean(-2, keepdim=True))
        ours = fusion.next_map(symmetric=True)
        assert torch.allclose(ours, kept / kept.sum(-1, keepdim=True), atol=1e-12)


def test_sinkhorn_does_not_mind_the_scale_of_the_sum():
    p = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0)).double() + 0.1
    a, b = Sinkhorn(p).next_map(symmetric=True), Sinkhorn(p / 11).next_map(symmetric=True)
    assert torch.allclose(a, b, atol=1e-14)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_map_without_contrast_keeps_its_own_values(symmetric):
    """Whether rounding leaves nothing of a row or all of it, no row is divided by 0."""
    p = torch.full((1, 1, 7, 7), 0.25)
    shown = Sinkhorn(p).next_map(symmetric)
    assert torch.isfinite(shown).all()
    p[..., 3, 3] = 1e-8  # rows that are all below their thresholds but for rounding
    assert torch.allclose(Sinkhorn(p).next_map(symmetric).sum(-1), torch.ones(1, 1, 7))
    nothing = Sinkhorn(torch.full((1, 1, 4, 4), 0.25)).next_map(symmetric=True)
    assert torch.equal(nothing[0, 0], torch.eye(4))


def test_cliper_paper_zeroes_values_below_the_mean():
    p = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0)) + 0.1
    shown = Sinkhorn(p).next_map(symmetric=False)
    assert (shown == 0).any()
    assert torch.allclose(shown.sum(-1), torch.ones(1, 1, 9))


def test_cliper_needs_whole_patches_for_windows(clip):
    segmenter = segmenter_of(clip, "cliper", None, {"window": 60, "stride": 20})
    with pytest.raises(WordmaskError, match="whole patches of 8 pixels"):
        segmenter.encode(pictures(1, 112, 112))


def test_cliper_drops_absent_classes(clip, texts):
    image = pictures(1, 112, 112)
    all_kept = segmenter_of(clip, "cliper", None, {"score_threshold": 0.0})
    encoding = all_kept.encode(image)
    peaks = class_scores(all_kept, encoding, texts)[0].amax((1, 2))
    middle = float(peaks.sort().values[-2:].mean())
    some = segmenter_of(clip, "cliper", None, {"score_threshold": middle})
    found = set(np.unique(some(encoding, texts, Background.none())[0].labels))
    assert found == {int(peaks.argmax()) + 1}
    none = segmenter_of(clip, "cliper", None, {"score_threshold": 1e9})
    assert not none(encoding, texts, Background.threshold(0.1))[0].labels.any()
    # without a background all classes stand where none is left
    assert np.array_equal(
        none(encoding, texts, Background.none())[0].labels,
        all_kept(encoding, texts, Background.none())[0].labels,
    )


@pytest.mark.parametrize("size", [(8, 8), (8, 16), (16, 24)])
@pytest.mark.parametrize("variant", METHODS["sc_clip"].variants)
@pytest.mark.parametrize("layers", [1, 2, 3, 8])
def test_sc_clip_of_few_patches_and_blocks(texts, size, variant, layers):
    """Fewer patches than neighbours, down to one; networks of any depth."""
    scores, encoding = scores_of(
        tiny_clip(layers=layers), "sc_clip", variant, pictures(1, *size), texts
    )
    assert encoding.grid == (size[0] // 8, size[1] // 8)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(12, (9, 4, [4, 10])), (24, (17, 7, [7, 20])), (8, (6, 3, [3, 7])), (2, (1, 1, [1, 1]))],
)
def test_sc_clip_blocks_follow_the_depth(depth, blocks):
    similarity, early, levels = create_method("sc_clip")[0]._blocks(depth)
    assert (similarity, early, [levels[0], levels[-1]]) == blocks


def test_sc_clip_repairs_outliers_by_their_sound_neighbours():
    x = torch.arange(6.0).view(1, 6, 1)  # a grid of 2 x 3
    wrong = torch.tensor([[[[1, 1, 0], [0, 0, 0]]]]).bool()
    assert sc_clip.repair(x, wrong)[0, :, 0].tolist() == [3.5, (2 + 3 + 4 + 5) / 4, 2, 3, 4, 5]
    assert torch.equal(sc_clip.repair(x, torch.ones(1, 1, 2, 3).bool()), x)


@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (2, 2)])
def test_sc_clip_places_outliers_as_released(grid):
    """Row i // h and column i % h, cells outside of the grid left out."""
    h, w = grid
    wrong = torch.eye(h * w).bool()  # picture i has outlier i
    repaired, released = (sc_clip.place_outliers(wrong, grid, transposed=t) for t in (False, True))
    for i in range(h * w):
        assert repaired[i, 0].nonzero().tolist() == [[i // w, i % w]]
        cells = [[i // h, i % h]] if i // h < h and i % h < w else []
        assert released[i, 0].nonzero().tolist() == cells


def test_sc_clip_outlier_score():
    """Points on a line at 0, 1, 3, with 1 neighbour: K = 1, 1, 4 over that of the neighbour."""
    x = torch.tensor([[[0.0], [1.0], [3.0]]])
    assert torch.allclose(sc_clip.outlier_scores(x, 1), torch.tensor([[1.0, 1.0, 4.0]]))
    assert sc_clip.outlier_scores(torch.ones(1, 40, 3), 30).tolist() == [[1.0] * 40]


@pytest.mark.parametrize("size", [(8, 8), (8, 16)])
@pytest.mark.parametrize("variant", METHODS["rf_clip"].variants)
@pytest.mark.parametrize("layers", [1, 2, 8])
def test_rf_clip_of_few_patches_blocks_and_words(texts, size, variant, layers):
    options = {"sink_channels": (3, 5), "sigma": 1.5, "sink_share": 0.01, "text_distance": 0.9}
    segmenter = segmenter_of(tiny_clip(layers=layers), "rf_clip", variant, options)
    encoding = segmenter.encode(pictures(1, *size))
    for words in (texts, texts[:1]):
        scores = class_scores(segmenter, encoding, words)
        assert scores.shape == (1, len(words), size[0] // 8, size[1] // 8)
        assert torch.isfinite(scores).all()


def test_rf_clip_denoises_patches_with_a_high_sink_channel():
    """A grid of 1 x 3, channel 1 is the sink: the middle patch is high in it."""
    x = torch.tensor([[[9.0, 9, 9, 9], [1, 0, 1, 1], [0, 6, 0, 0], [1, 0, 1, 1]]])  # class token
    out = rf_clip.denoise(x, (1, 3), (1,), 2.0)
    assert torch.equal(out[0, [0, 1, 3]], x[0, [0, 1, 3]])
    around = torch.tensor([2.0, 6.0, 2.0, 2.0]) / 9
    assert torch.allclose(out[0, 2], 0.6 * x[0, 2] + 0.4 * around)
    assert torch.equal(rf_clip.denoise(x, (1, 3), (), 2.0), x)


def test_rf_clip_refocuses_within_rows():
    attention = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    attention[..., 4] += 3
    attention = attention / attention.sum(-1, keepdim=True)
    out = rf_clip.refocus(attention, 1, 0.2)
    assert torch.allclose(out.sum(-1), torch.ones(2, 3, 6))
    assert torch.equal(out[..., 0, :], attention[..., 0, :])
    assert torch.equal(out[..., 0], attention[..., 0])
    assert torch.allclose(out[..., 1:, 4], 0.6 * attention[..., 1:, 4])
    grown = out[..., 1:, [1, 2, 3, 5]] / attention[..., 1:, [1, 2, 3, 5]]
    assert torch.allclose(grown, grown[..., :1].expand_as(grown))
    everything = rf_clip.refocus(attention, 1, 0.0)  # no other patch is left to take the weight
    assert torch.equal(everything, attention)


def test_rf_clip_moves_the_best_text_of_each_cluster():
    rows = torch.tensor([[1.0, 0, 0], [0.9, 0.19**0.5, 0], [0, 0, 1]])
    assert len(set(rf_clip.cluster_texts(rows, 0.2))) == 2
    features = torch.eye(3).view(1, 3, 1, 3)
    vectors = torch.tensor([[0.2, 0.5, 0.1]])
    moved = rf_clip.move_texts(features, rows, vectors, 0.2, 0.5)[0]
    assert torch.equal(moved[0], rows[0])
    mean = torch.nn.functional.normalize(torch.tensor([1.0, 1.0, 0.0]), dim=0)  # of patches 0, 1
    expected = torch.nn.functional.normalize((rows[1] + mean) / 2, dim=0)
    assert torch.allclose(moved[1], expected)
    assert not torch.equal(moved[2], rows[2])  # alone in its cluster


def test_rf_clip_takes_the_image_vector_of_the_whole_picture(clip, texts):
    """With windows, the default adds what the whole picture says, the same in all windows."""
    image = pictures(2, 64, 96)
    windows = {"window": 64, "stride": 32, "text_shift": 0.0}
    plain, weighted, own = (
        segmenter_of(clip, "rf_clip", None, windows | options)
        for options in (
            {"image_weight": 0.0},
            {"image_weight": 0.5},
            {"image_weight": 0.5, "image_vector": "window"},
        )
    )
    encoding = plain.encode(image)
    rows = plain.encode_text(texts)
    scores = [one.method.scores(one.towers, encoding, rows) for one in (plain, weighted, own)]
    whole = segmenter_of(clip, "rf_clip").encode(image).state.embedding
    vectors = torch.nn.functional.normalize(whole, dim=-1) @ texts.T
    added = 0.5 * vectors.repeat_interleave(2, 0)[..., None, None]
    assert torch.allclose(scores[1], 0.5 * scores[0] + added, atol=1e-5)
    vectors = torch.nn.functional.normalize(encoding.state.embedding, dim=-1) @ texts.T
    assert torch.allclose(scores[2], 0.5 * scores[0] + 0.5 * vectors[..., None, None], atol=1e-5)


def test_rf_clip_has_sink_channels_of_clips_alone():
    """They were found in CLIPs: a network of another family and the same width has none."""
    method, _ = create_method("rf_clip")
    blip = tiny_blip()
    for model, found in ((tiny_clip(layers=1), (3,)), (blip, ())):
        tower = Segmenter.from_pretrained(model, method).tower
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(rf_clip.SINK_CHANNELS, tower.vision.config.hidden_size, (3,))
            assert method._channels(tower) == found
    assert dataclasses.replace(method, sink_channels=(5,))._channels(tower) == (5,)


def test_rf_clip_refuses_channels_beyond_the_width(clip):
    with pytest.raises(WordmaskError, match=r"sink_channels=\(64,\) for a network of width 64"):
        segmenter_of(clip, "rf_clip", None, {"sink_channels": (64,)}).encode(pictures(1, 64, 64))


def test_maskclip_prompt_denoising_drops_classes(clip, texts):
    image = pictures(1, 112, 112)
    plain, _ = scores_of(clip, "maskclip", None, image, texts)
    denoised, _ = scores_of(
        clip, "maskclip", None, image, texts, options={"prompt_denoising": 0.9999}
    )
    dropped = (denoised == -1).flatten(2).all(-1)[0]
    assert dropped.any()
    assert not dropped.all()
    assert torch.equal(denoised[0, ~dropped], plain[0, ~dropped])


@pytest.mark.parametrize("over_tokens", [False, True])
def test_maskclip_key_smoothing_mixes_probabilities(clip, texts, over_tokens):
    """P_i <- sum_j <k_i, k_j> P_j; the labels are those of the mixture, its shares are sure."""
    options = {"key_smoothing": 1.0, "smoothing_over_tokens": over_tokens}
    segmenter = segmenter_of(clip, "maskclip", None, options)
    image = pictures(1, 112, 112)
    plain, _ = scores_of(clip, "maskclip", None, image, texts)
    encoding = segmenter.encode(image)
    keys = torch.nn.functional.normalize(encoding.state.keys[0], dim=0 if over_tokens else 1)
    mixed = torch.softmax(100 * plain[0].flatten(1), 0) @ (keys @ keys.T)
    (scored,) = segmenter.score(encoding, texts, "none")
    assert torch.allclose(scored.maps.tiles[0].scores.flatten(1), mixed, atol=1e-4)
    large = torch.nn.functional.interpolate(
        mixed.view(1, WORDS, 14, 14), size=(112, 112), mode="bilinear"
    )[0]
    labels = scored.labels()
    assert (labels == large.argmax(0).numpy() + 1).mean() > 0.999
    shares = large.clamp_min(0) / large.clamp_min(0).sum(0)
    assert np.allclose(scored.confidence(labels), shares.amax(0).numpy(), atol=1e-3)
    maps = scored.class_maps()
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_maskclip_smooths_what_is_unsure_and_never_what_is_dropped(clip, texts):
    image = pictures(1, 112, 112)
    plain, _ = scores_of(clip, "maskclip", None, image, texts)
    probability = torch.softmax(100 * plain, 1)
    best = probability.amax(1, keepdim=True)
    limit = float(best.median())
    options = {"key_smoothing": limit}
    segmenter = segmenter_of(clip, "maskclip", None, options)
    raw = segmenter.method.scores(
        segmenter.towers, segmenter.encode(image), segmenter.encode_text(texts)
    )
    kept = (best > limit).expand_as(raw)
    assert kept.any()
    assert torch.allclose(raw[kept], probability[kept], atol=1e-5)
    assert not torch.allclose(raw[~kept], probability[~kept], atol=1e-2)
    both = {"key_smoothing": 1.0, "prompt_denoising": 0.9999}
    denoised, _ = scores_of(clip, "maskclip", None, image, texts, options=both)
    absent = (probability.amax((2, 3)) < 0.9999)[0]
    assert absent.any()
    assert denoised[0, absent].max() < 1e-6


def test_maskclip_official_runs_exact_gelu(texts):
    """The override equals the same weights with that activation in their config."""
    quick, exact = tiny_clip(hidden_act="quick_gelu"), tiny_clip(hidden_act="gelu")
    image = pictures(1, 64, 64)
    options = {"activation": "gelu"}
    ours, _ = scores_of(quick, "maskclip", None, image, texts, options=options)
    theirs, _ = scores_of(exact, "maskclip", None, image, texts)
    plain, _ = scores_of(quick, "maskclip", None, image, texts)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, plain, atol=1e-3)


def test_surgery_of_one_class_needs_the_empty_prompt(clip, texts):
    segmenter = segmenter_of(clip, "clip_surgery", "feature-surgery")
    encoding = segmenter.encode(pictures(1, 64, 64))
    with pytest.raises(WordmaskError, match="one text feature"):
        segmenter.score(encoding, texts[:1])


def test_needs_join():
    a = Need.of(states=[1], projections={4: "q"})
    b = Need.of(states=[3], projections={4: "v"}, attention_sum=[1, 2])
    joined = a | b
    assert joined.states == {1, 3}
    assert joined.letters(4) == "qv"
    assert (joined.last_state, joined.last_block) == (3, 4)
    with pytest.raises(WordmaskError, match="run them separately"):
        _ = b | Need.of(attention_sum=[1])
