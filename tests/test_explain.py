"""What the pictures of `wordmask explain` show is what the network does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tiny import class_scores, tiny_clip, tiny_tokenizer, tiny_vfm
from wordmask import Segmenter, WordmaskError, explain, list_methods
from wordmask.explain import PatchGrid, attention_of_patch, similarity_by_layer
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
    most = {"sclip": 2, "cliptrase": 3}.get(method, 1)  # so many maps are added
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
    return explain._set_maps(segmenter, PatchGrid(segmenter, image), words, background)


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
    """The titles of all pictures that are drawn."""
    titles: list[str] = []
    strip = explain.drawing.strip

    def recorded(images, names, **options):
        titles.extend(names)
        return strip(images, names, **options)

    monkeypatch.setattr(explain.drawing, "strip", recorded)
    return titles


def test_drawn_attention(segmenter, titles):
    chosen = segmenter.with_method("gem", options={"short_side": 56})
    page = explain.draw_attention(chosen, picture(40, 80), (70, 10))
    assert page.width > page.height
    assert titles[0] == "photo, point 70,10"
    assert titles[1].startswith("before: q-k of block 4 (0 to 0.")
    assert titles[2].startswith("after: gem (0 to 0.")
    other = explain.draw_attention(chosen, picture(40, 80), (3, 30))
    assert page.tobytes() != other.tobytes()


def test_drawn_layers(segmenter, titles):
    chosen = segmenter.with_method("cliper", options={"short_side": 56})
    explain.draw_layers(chosen, picture(), WORDS, "none")
    blocks = [f"block {n}" for n in range(1, 5)]
    sets = [f"set {i} alone" for i in range(1, 5)]
    assert titles[1:] == [*blocks, *sets, "labels of cliper"]
    titles.clear()
    explain.draw_layers(segmenter.with_method("sclip"), picture(), WORDS, "none")
    assert titles[1:] == blocks


def test_drawn_classes_share_a_scale(segmenter, titles):
    chosen = segmenter.with_method("naclip", options={"short_side": 56})
    explain.draw_classes(chosen, picture(), WORDS, "none")
    scores = chosen(picture(), WORDS, "none").scores
    low, high = titles[0].removeprefix("photo; scale ").split(" to ")
    assert float(low) == pytest.approx(scores.min(), abs=0.06)
    assert float(high) == pytest.approx(scores.max(), abs=0.06)
    assert [title.split(":")[0] for title in titles[1:4]] == WORDS
    assert titles[4] == "labels of naclip"


def test_of_many_classes_those_with_most_pixels_are_drawn(segmenter, titles):
    rows = F.normalize(torch.randn(20, 48, generator=torch.Generator().manual_seed(0)), dim=-1)
    chosen = segmenter.with_method("clip", options={"short_side": 56})
    explain.draw_classes(chosen, picture(), rows)
    drawn = [title.split(":")[0] for title in titles if title.startswith("class ")]
    found = chosen(picture(), rows).found
    assert len(drawn) == 14
    assert set(found[:14]) <= set(drawn)


def test_windows_are_ignored(segmenter):
    options = {"short_side": 56, "window": 32, "stride": 16}
    for method in ("sclip", "cliper"):
        whole = segmenter.with_method(method, options={"short_side": 56})
        windowed = segmenter.with_method(method, options=options)
        for draw in (explain.draw_layers, explain.draw_classes):
            pages = [draw(one, picture(56, 80), WORDS, "none") for one in (whole, windowed)]
            assert pages[0].tobytes() == pages[1].tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_thin_pictures_can_be_drawn(segmenter, size):
    chosen = segmenter.with_method("clearclip", options={"short_side": 16, "long_side": 128})
    image = picture(*size)
    for page in (
        explain.draw_attention(chosen, image),
        explain.draw_layers(chosen, image, WORDS, "none"),
        explain.draw_classes(chosen, image, WORDS, "none"),
    ):
        assert max(page.size) < 6000


def test_a_method_given_as_an_instance_is_drawn_without_its_windows(segmenter):
    method, _ = create_method("sclip", None, {"window": 56, "stride": 28, "short_side": 112})
    chosen = segmenter.with_method(method)
    whole = segmenter.with_method("sclip", options={"window": 0, "short_side": 112})
    drawn = [explain.draw_classes(one, picture(), WORDS, "none") for one in (chosen, whole)]
    assert np.array_equal(*map(np.asarray, drawn))
