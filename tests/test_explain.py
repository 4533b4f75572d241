"""What the pictures of `wordmask explain` show is what the network does."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tiny import Dense, class_scores, tiny_clip, tiny_tokenizer, tiny_vfm
from wordmask import Segmenter, WordmaskError, drawing, explain, list_methods
from wordmask.affinity import Chain, Mean
from wordmask.explain import (
    VIEWS,
    PatchGrid,
    Subject,
    attention_of_patch,
    general,
    similarity_by_layer,
    similarity_to_last,
)
from wordmask.explain.clearclip import parts_of_block
from wordmask.explain.cliper import affinity_row, three_axes
from wordmask.explain.cliptrase import correlation, find_global_patches
from wordmask.methods import create_method

WORDS = ["photo", "cat", "do"]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    model = tiny_clip(layers=4)
    networks = {"vfm": tiny_vfm()}
    return Segmenter.from_pretrained(model, "clip", tokenizer=tiny_tokenizer(), networks=networks)


def picture(height: int = 56, width: int = 56, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return small.repeat(8, axis=0).repeat(8, axis=1)[:height, :width].copy()


def test_attention_before_and_states_are_the_networks_own(segmenter):
    """A plain forward of transformers at the native size is the reference."""
    native = segmenter.with_method("clip", options={"short_side": 56})
    image = picture()
    model = segmenter.tower.model
    earlier = model.vision_model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        pixels = native.method.prepare(image, native.tower)[None]
        reference = model.vision_model(
            pixel_values=pixels, output_attentions=True, output_hidden_states=True
        )
    model.set_attn_implementation(earlier)
    token = 1 + 2 * 7 + 5  # the patch in row 2, column 5
    point = (5 * 8 + 3, 2 * 8 + 3)

    attention = attention_of_patch(native, image, point)
    assert attention.patch == (2, 5)
    expected = reference.attentions[-1][0, :, token, 1:].mean(0).view(7, 7)
    torch.testing.assert_close(attention.before, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(attention.after, expected, atol=1e-6, rtol=1e-5)  # clip: unchanged

    layers = similarity_by_layer(native, image, point)
    assert layers.shape == (4, 7, 7)
    for n in range(1, 5):
        states = reference.hidden_states[n][0]
        cosines = F.cosine_similarity(states[1:], states[token][None]).view(7, 7)
        torch.testing.assert_close(layers[n - 1], cosines, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", list_methods())
def test_attention_of_every_method(segmenter, method):
    chosen = segmenter.with_method(method, options={"short_side": 56})
    attention = attention_of_patch(chosen, picture(56, 96), (90, 10))
    assert attention.before.shape == attention.after.shape == (7, 12)
    assert attention.patch == (1, 11)
    for values in (attention.before, attention.after):
        assert values.min() >= 0
    assert 0 < attention.before.sum() < 1  # the class token has the rest
    most = {"sclip": 2, "cliptrase": 3, "resclip": 2}.get(method, 1)  # maps added, or a scale
    assert 0 < attention.after.sum() <= most + 1e-5
    if method == "maskclip":
        one_hot = torch.zeros(7, 12)
        one_hot[1, 11] = 1
        assert torch.equal(attention.after, one_hot)


def test_naclip_moves_attention_to_the_neighbours(segmenter):
    near = segmenter.with_method("naclip", options={"short_side": 56, "sigma": 1.0})
    far = segmenter.with_method("naclip", options={"short_side": 56, "strategy": "kk"})
    around = (slice(2, 5), slice(2, 5))
    gaussian = attention_of_patch(near, picture(), (28, 28)).after[around].sum()
    plain = attention_of_patch(far, picture(), (28, 28)).after[around].sum()
    assert gaussian > plain


@pytest.mark.parametrize(
    ("method", "options", "points"),
    [
        # 100 x 200 becomes 40 x 80, 5 x 10 patches: each stands for 20 x 20 pixels
        (
            "cliper",
            {"short_side": 40},
            {(0, 0): (0, 0), (19, 19): (0, 0), (20, 19): (0, 1), (199, 99): (4, 9)},
        ),
        # 36 x 72, padded by 2 above and 2 below to 40 x 72: y lies in row (0.36 (y + 0.5) + 2) / 8
        (
            "clearclip",
            {"short_side": 36},
            {(0, 16): (0, 0), (0, 17): (1, 0), (22, 99): (4, 1), (21, 50): (2, 0)},
        ),
        # 36 x 72, 4 pixels dropped: 4 x 9 patches are stretched over the picture, 25 pixels a row
        (
            "sclip",
            {"short_side": 36},
            {(0, 24): (0, 0), (0, 25): (1, 0), (199, 99): (3, 8), (None): (2, 4)},
        ),
    ],
)
def test_points_fall_into_patches(segmenter, method, options, points):
    grid = PatchGrid(segmenter.with_method(method, options=options), picture(100, 200))
    assert {point: grid.patch_at(point) for point in points} == points


def test_cells_lie_where_the_points_are(segmenter):
    for method, short in (("cliper", 40), ("clearclip", 36), ("sclip", 36)):
        grid = PatchGrid(
            segmenter.with_method(method, options={"short_side": short}), picture(100, 200)
        )
        for point in ((0, 0), (57, 31), (199, 99)):
            left, top, right, bottom = grid.cell(grid.patch_at(point), (100, 200))
            assert left <= point[0] <= right
            assert top <= point[1] <= bottom
            assert right - left < 26
            assert bottom - top < 26


@pytest.mark.parametrize(("method", "short"), [("clearclip", 36), ("sclip", 36), ("clip", 40)])
def test_maps_are_spread_as_labels_are_read(segmenter, method, short):
    chosen = segmenter.with_method(method, options={"short_side": short})
    image = picture(61, 117)
    result = chosen(image, WORDS, "none")
    spread = PatchGrid(chosen, image).spread(torch.from_numpy(result.scores), (61, 117))
    agreed = (spread.argmax(0) + 1 == result.labels).mean()
    assert agreed > 0.999  # ties aside


def set_maps(segmenter, image, words, background=None):
    """What the labels of each feature set alone are drawn from."""
    return general.set_maps(Subject(segmenter, image, words, background))


def test_maps_of_one_set_are_the_methods_own(segmenter):
    options = {"early_embeddings": False, "fusion": "paper", "short_side": 56}
    chosen = segmenter.with_method("cliper", options=options)
    maps = set_maps(chosen, picture(), WORDS, "none")
    torch.testing.assert_close(maps, class_scores(chosen, picture(), WORDS))


def test_maps_by_set(segmenter):
    chosen = segmenter.with_method("cliper", options={"short_side": 56})
    maps = set_maps(chosen, picture(), [["photo", "cat"], "do"], ["wall", "sky"])
    assert maps is not None
    assert maps.shape == (4, 3, 7, 7)  # two classes and the background names
    assert maps.min() >= 0
    assert maps.sum(1).max() <= 1 + 1e-5
    assert set_maps(segmenter.with_method("sclip"), picture(), WORDS) is None


@pytest.mark.parametrize("point", [(56, 0), (0, 56), (-1, 5), (5, -1)])
def test_a_point_outside_is_refused(segmenter, point):
    with pytest.raises(WordmaskError, match=r"outside the picture of 56 x 56 .* 0,0 to 55,55"):
        attention_of_patch(segmenter, picture(), point)


@pytest.fixture
def titles(monkeypatch) -> list[str]:
    """The titles of all panels that are drawn."""
    titles: list[str] = []
    strip = drawing.strip

    def recorded(images, names, **options):
        titles.extend(names)
        return strip(images, names, **options)

    monkeypatch.setattr(drawing, "strip", recorded)
    return titles


@pytest.fixture
def bars(monkeypatch) -> list[tuple[float, float]]:
    """The ranges of all colour bars that are drawn."""
    ranges: list[tuple[float, float]] = []
    colour_bar = drawing.colour_bar

    def recorded(low, high, *size):
        ranges.append((low, high))
        return colour_bar(low, high, *size)

    monkeypatch.setattr(drawing, "colour_bar", recorded)
    return ranges


def test_drawn_attention(segmenter, titles, bars):
    chosen = segmenter.with_method("gem", options={"short_side": 56})
    page = explain.draw(chosen, picture(40, 80), "attention", points=[(70, 10)])
    assert page.width > page.height
    assert titles == ["photo, point 70,10", "before: q-k of block 4", "after: gem"]
    assert len(bars) == 2
    other = explain.draw(chosen, picture(40, 80), "attention", points=[(3, 30)])
    assert page.tobytes() != other.tobytes()
    both = explain.draw(chosen, picture(40, 80), "attention", points=[(70, 10), (3, 30)])
    assert both.height > page.height


def test_drawn_layers(segmenter, titles, bars):
    chosen = segmenter.with_method("cliper", options={"short_side": 56})
    explain.draw(chosen, picture(), "layers", WORDS, "none")
    blocks = [f"block {n}" for n in range(1, 5)]
    sets = [f"set {i} alone" for i in range(1, 5)]
    assert titles[1:] == [*blocks, *sets, "labels of cliper"]
    assert len(set(bars)) == 1  # one scale
    titles.clear()
    explain.draw(segmenter.with_method("sclip"), picture(), "layers", WORDS, "none")
    assert titles[1:] == blocks


def test_drawn_classes_share_a_scale(segmenter, titles, bars):
    chosen = segmenter.with_method("naclip", options={"short_side": 56})
    explain.draw(chosen, picture(), "classes", WORDS, "none")
    scores = chosen(picture(), WORDS, "none").scores
    assert bars == [pytest.approx((scores.min(), scores.max()))] * 3
    assert titles == ["photo", *WORDS, "labels of naclip"]


def test_of_many_classes_those_with_most_pixels_are_drawn(segmenter, titles):
    rows = F.normalize(torch.randn(20, 48, generator=torch.Generator().manual_seed(0)), dim=-1)
    chosen = segmenter.with_method("clip", options={"short_side": 56})
    explain.draw(chosen, picture(), "classes", rows)
    drawn = [title for title in titles if title.startswith("class ")]
    found = chosen(picture(), rows).found
    assert len(drawn) == 14
    assert set(found[:14]) <= set(drawn)


def test_windows_are_ignored(segmenter):
    options = {"short_side": 56, "window": 32, "stride": 16}
    for method in ("sclip", "cliper"):
        whole = segmenter.with_method(method, options={"short_side": 56})
        windowed = segmenter.with_method(method, options=options)
        for name in ("layers", "classes"):
            pages = [
                explain.draw(one, picture(56, 80), name, WORDS, "none") for one in (whole, windowed)
            ]
            assert pages[0].tobytes() == pages[1].tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("name", sorted(set(VIEWS) - {"diffusion", "refined", "clusters"}))
def test_thin_pictures_can_be_drawn(segmenter, size, name):
    chosen = segmenter.with_method("clearclip", options={"short_side": 16, "long_side": 128})
    page = explain.draw(chosen, picture(*size), name, WORDS, "none")
    assert max(page.size) < 8000


def test_a_method_given_as_an_instance_is_drawn_without_its_windows(segmenter):
    method, _ = create_method("sclip", None, {"window": 56, "stride": 28, "short_side": 112})
    chosen = segmenter.with_method(method)
    whole = segmenter.with_method("sclip", options={"window": 0, "short_side": 112})
    drawn = [explain.draw(one, picture(), "classes", WORDS, "none") for one in (chosen, whole)]
    assert np.array_equal(*map(np.asarray, drawn))


# -- the papers' pictures -----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(VIEWS) - {"diffusion", "refined"}))
def test_every_heat_map_has_a_colour_bar_of_its_range(segmenter, monkeypatch, bars, name):
    ranges, heat_map = [], drawing.heat_map

    def recorded(values, size, low, high, *more, **options):
        ranges.append((low, high))
        return heat_map(values, size, low, high, *more, **options)

    monkeypatch.setattr(drawing, "heat_map", recorded)
    method = "cliptrase" if name == "clusters" else "clip"
    one = segmenter.with_method(method, options={"short_side": 56})
    explain.draw(one, picture(), name, WORDS, "none")
    assert set(ranges) <= set(bars)
    assert len(ranges) <= len(bars)
    assert ranges or name in ("embeddings", "clusters")


def test_every_view_says_what_to_see():
    assert {"embeddings", "early-last", "diffusion", "refined", "residual"} <= set(VIEWS)
    assert {"global", "recovery", "local-global", "clusters"} <= set(VIEWS)
    for name, view in VIEWS.items():
        assert view.name == name
        assert len(view.see) > 60
        assert view.see.endswith(".")


@pytest.mark.parametrize("method", list_methods())
@pytest.mark.parametrize("name", ["recovery", "early-last", "attention", "refined"])
def test_views_of_every_method_with_refiners(segmenter, method, name, titles):
    chosen = segmenter.with_method(method, options={"short_side": 40}, refine="pamr")
    page = explain.draw(chosen, picture(40, 56), name, WORDS, "none")
    assert page.width >= 700
    if name == "refined":
        assert titles[-2:] == ["labels before", "labels after pamr"]


def test_early_embeddings_are_compared_with_the_last(segmenter):
    """CLIPer, Fig. 2b: transformers' hidden states are the reference."""
    native = segmenter.with_method("clip", options={"short_side": 56})
    with torch.no_grad():
        pixels = native.method.prepare(picture(), native.tower)[None]
        hidden = native.tower.model.vision_model(
            pixel_values=pixels, output_hidden_states=True
        ).hidden_states
    token, point = 1 + 2 * 7 + 5, (5 * 8 + 3, 2 * 8 + 3)
    maps = similarity_to_last(native, picture(), point)
    assert maps.shape == (4, 7, 7)
    for n in range(1, 5):
        expected = F.cosine_similarity(hidden[n][0, token][None], hidden[4][0, 1:])
        torch.testing.assert_close(maps[n - 1].flatten(), expected, atol=1e-5, rtol=1e-5)
    within = similarity_by_layer(native, picture(), point)
    assert not torch.allclose(maps[0], within[0], atol=0.01)
    torch.testing.assert_close(maps[-1], within[-1])


def test_three_axes_are_those_of_greatest_variance():
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([9.0, 0.1, 5.0, 0.1, 2.0, 0.1])
    states = torch.randn(200, 6, generator=generator) * size + 3
    at, share = three_axes(states)
    assert at.shape == (200, 3)
    assert at.min() == 0
    assert at.max() == 1
    assert share > 0.99
    for axis, channel in enumerate((0, 2, 4)):
        correlated = torch.corrcoef(torch.stack([at[:, axis], states[:, channel]]))[0, 1]
        assert correlated > 0.98  # the sign too
    at, share = three_axes(torch.ones(5, 2))
    assert at.shape == (5, 3)


def test_a_row_of_an_affinity_is_that_of_the_dense_matrix():
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.rand(12, 12, generator=generator) for _ in range(3))
    chain = Chain([Dense(a), Mean([Dense(b), Dense(c)])])
    expected = a @ ((b + c) / 2)
    torch.testing.assert_close(affinity_row(chain, 7), expected[7])
    torch.testing.assert_close(affinity_row(Mean([Dense(a), Dense(b)]), 3), (a + b)[3] / 2)


def test_global_patches_are_found(segmenter, monkeypatch):
    """Two columns of the attention of one block are bright: those patches, in that block."""
    subject = Subject(segmenter.with_method("clip", options={"short_side": 56}), picture())
    patches = 49

    def attention(n):
        weights = torch.ones(patches + 1, patches + 1)
        if n == 3:
            weights[:, 1 + 11] = 40.0
            weights[:, 1 + 30] = 20.0
        return weights / weights.sum(1, keepdim=True)

    monkeypatch.setattr(subject, "attention", attention)
    found = find_global_patches(subject)
    assert (found.patches, found.block) == ([11, 30], 3)
    assert found.received.argmax() == 11


def test_recovered_weights_are_self_cosines(segmenter):
    subject = Subject(segmenter.with_method("clip", options={"short_side": 56}), picture())
    w = correlation(subject)
    q, k, v = (x[0, :, 1:] for x in subject.streams(4))
    expected = sum(
        (F.normalize(x, dim=-1) @ F.normalize(x, dim=-1).transpose(1, 2)).mean(0) for x in (q, k, v)
    )
    torch.testing.assert_close(w, expected / 3, atol=1e-5, rtol=1e-5)


def test_clusters_are_drawn_with_and_without_denoising(segmenter, titles):
    pytest.importorskip("sklearn")
    chosen = segmenter.with_method("cliptrase", options={"short_side": 112})
    explain.draw(chosen, picture(112, 112), "clusters", WORDS, "none")
    assert titles[1].startswith("no denoising: ")
    assert titles[2].startswith("denoised: class: ")
    assert titles[3].endswith("(Eq. 6)")
    with pytest.raises(WordmaskError, match="needs --method cliptrase"):
        explain.draw(segmenter, picture(), "clusters")


def test_parts_of_the_last_block_add_up(segmenter):
    """ClearCLIP: X_sum with the feed-forward network is the output of the block."""
    subject = Subject(segmenter.with_method("clip", options={"short_side": 56}), picture())
    block = segmenter.tower.block(4)
    with torch.no_grad():
        whole = parts_of_block(subject, 4)
        after = whole.sum + block.feed_forward(whole.sum[None])[0]
    torch.testing.assert_close(after, subject.states[4][0, 1:], atol=1e-4, rtol=1e-4)
    assert torch.equal(whole.sum, whole.res + whole.attn)


@pytest.mark.parametrize("name", ["classes", "refined"])
def test_a_view_of_classes_needs_them(segmenter, name):
    with pytest.raises(WordmaskError, match="needs classes"):
        explain.draw(segmenter, picture(), name)


def test_without_matplotlib_only_charts_are_left_out(segmenter, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(explain.NotDrawableError, match="needs matplotlib"):
        explain.draw(segmenter, picture(), "residual")
    explain.draw(segmenter, picture(), "recovery")


def test_what_cannot_be_drawn_is_said(segmenter):
    with pytest.raises(WordmaskError, match=r"unknown view 'nothing'.*attention"):
        explain.draw(segmenter, picture(), "nothing")
    with pytest.raises(WordmaskError, match="needs a refiner"):
        explain.draw(segmenter, picture(), "refined", WORDS)
