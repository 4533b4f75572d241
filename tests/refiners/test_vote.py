"""The vote of regions as a refiner: by hand, with backgrounds and windows, from folders."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F

from tiny import tiny_clip
from wordmask import Background, Segmenter, WordmaskError
from wordmask.refiners import RefinerInput, create_refiner
from wordmask.region_vote import region_means, take_majority
from wordmask.towers.auxiliary import AuxiliaryModels

WORDS = 4


@pytest.fixture(scope="module")
def clip():
    return tiny_clip(layers=3)


@pytest.fixture(scope="module")
def texts():
    rows = torch.randn(WORDS, 48, generator=torch.Generator().manual_seed(1))
    return F.normalize(rows, dim=-1)


@pytest.fixture
def picture(tmp_path):
    """The path of a picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    path = tmp_path / "one.png"
    PIL.Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(path)
    return path


def save_map(folder, regions, name: str = "one") -> str:
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{name}.npz", regions)
    return str(folder)


def segmenter_of(clip, refine=None, **options) -> Segmenter:
    given = {"short_side": None} | options
    return Segmenter.from_pretrained(clip, "clearclip", options=given, refine=refine)


def test_means_by_hand():
    scores = torch.tensor([[[1.0, 3, 5, 7]], [[0, 2, 2, 2]]])
    regions = torch.tensor([[0, 4, 4, 1]])
    assert region_means(scores, regions).tolist() == [[[1, 4, 4, 7]], [[0, 2, 2, 2]]]
    assert torch.equal(region_means(scores, torch.zeros(1, 4).int()), scores)


def test_majority_by_hand():
    labels = np.array([[3, 1, 1, 3, 2, 5]], np.uint8)
    regions = np.array([[1, 1, 7, 7, 7, 0]])
    # a tie in region 1, three ways in region 7: the smaller label; unsegmented pixels stay
    voted = take_majority(labels, regions)
    assert voted.tolist() == [[1, 1, 1, 1, 1, 5]]
    assert voted.dtype == np.uint8
    assert np.array_equal(take_majority(labels, 0 * regions), labels)


def test_the_mean_is_of_probabilities(clip, texts, picture, tmp_path):
    """Score maps whose softmax is the mean probability of each region; nothing else changes."""
    regions = np.zeros((64, 96), int)
    regions[:, :32] = 1
    regions[16:48, 40:72] = 2
    source = save_map(tmp_path / "maps", regions)
    plain, voting = (
        segmenter_of(clip, refine) for refine in (None, [("vote", {"region_maps": source})])
    )
    scale = plain.method.logit_scale
    size = regions.shape
    before, after = (
        torch.softmax(scale * one.score(picture, texts, "none").maps.rows(0, 64, size), 0)
        for one in (plain, voting)
    )
    for number in (1, 2):
        inside = torch.from_numpy(regions == number)
        mean = before[:, inside].mean(1)
        assert torch.allclose(after[:, inside], mean[:, None].expand(-1, inside.sum()), atol=1e-5)
    outside = torch.from_numpy(regions == 0)
    assert torch.allclose(after[:, outside], before[:, outside], atol=1e-5)
    assert (after - before).abs().max() > 1e-3
    assert np.array_equal(voting(picture, texts, "none").labels - 1, after.argmax(0).numpy())


@pytest.mark.parametrize("window", [0, 32])
@pytest.mark.parametrize("background", [Background.none(), Background.threshold(0.3)])
@pytest.mark.parametrize("low_memory", [False, True])
def test_the_majority_is_of_labels(clip, texts, picture, tmp_path, window, background, low_memory):
    """The labels without it, then the most frequent of each region, the background among them."""
    regions = np.arange(8).reshape(2, 4).repeat(32, 0).repeat(24, 1)
    source = save_map(tmp_path / "maps", regions)
    options = {"window": window, "stride": 16}
    refine = [("vote", {"region_maps": source, "vote": "majority"})]
    plain = segmenter_of(clip, **options)
    voting = segmenter_of(clip, refine, **options)
    voting.low_memory = low_memory
    labels, voted = (one(picture, texts, background).labels for one in (plain, voting))
    assert np.array_equal(voted, take_majority(labels, regions))
    assert not np.array_equal(voted, labels)
    scores = [one.score(picture, texts, background).class_maps() for one in (plain, voting)]
    assert torch.equal(*scores)


@pytest.mark.parametrize("vote", ["mean", "majority"])
def test_no_region_changes_nothing_and_one_region_is_one_label(
    clip, texts, picture, tmp_path, vote
):
    plain = segmenter_of(clip)(picture, texts, "none").labels
    none, one = (
        segmenter_of(clip, [("vote", {"region_maps": save_map(tmp_path / str(n), regions)} | how)])
        for n, (regions, how) in enumerate(
            [
                (np.zeros((64, 96), int), {"vote": vote}),
                (np.full((64, 96), 9), {"vote": vote}),
            ]
        )
    )
    assert np.array_equal(none(picture, texts, "none").labels, plain)
    assert len(np.unique(one(picture, texts, "none").labels)) == 1


def test_a_picture_of_one_patch(clip, texts):
    image = np.full((8, 8, 3), 90, np.uint8)
    for refine in ("vote", "vote:majority"):
        labels = segmenter_of(clip, refine)(image, texts, "none").labels
        assert labels.shape == (8, 8)
        assert len(np.unique(labels)) == 1


def test_class_maps_are_averaged_as_they_are(clip, texts, picture, tmp_path):
    """A method whose scores are maps of classes has no cosines to make probabilities of."""
    source = save_map(tmp_path / "maps", np.ones((64, 96), int))
    segmenter = Segmenter.from_pretrained(
        clip, "cliper", options={"short_side": None}, refine=[("vote", {"region_maps": source})]
    )
    scored = segmenter.score(picture, texts, "none")
    size = (64, 96)
    before, after = scored.coarse.rows(0, 64, size), scored.maps.rows(0, 64, size)
    assert torch.allclose(after[:, 0, 0], before.mean((1, 2)), atol=1e-4)


def test_maps_that_a_step_on_words_gives_are_averaged_as_they_are(clip, texts, picture, tmp_path):
    """FreeCP's are maps of classes: with a background not all pixels are background."""
    source = save_map(tmp_path / "maps", np.ones((64, 96), int))
    refine = [("freecp", {"redundancy": 0.0}), ("vote", {"region_maps": source})]
    scored = segmenter_of(clip, refine).score(picture, texts, Background.threshold(0.01))
    before, after = (maps.rows(0, 64, (64, 96)) for maps in (scored.coarse, scored.maps))
    assert torch.allclose(after[:, 0, 0], before.mean((1, 2)), atol=1e-4)
    assert scored.labels().all()


def test_pictures_have_names(clip, texts, picture, tmp_path):
    source = save_map(tmp_path / "maps", np.ones((64, 96), int))
    segmenter = segmenter_of(clip, [("vote", {"region_maps": source})])
    whole = segmenter(picture, texts, "none").labels
    with PIL.Image.open(picture) as opened:
        array = np.asarray(opened)
        assert np.array_equal(segmenter(opened, texts, "none").labels, whole)
    encoding = segmenter.encode(array, name="one")
    assert np.array_equal(segmenter(encoding, texts, "none").labels, whole)
    with pytest.raises(WordmaskError, match="picture in memory"):
        segmenter(array, texts, "none")
    save_map(tmp_path / "maps", np.ones((64, 64), int))
    with pytest.raises(WordmaskError, match="64 x 64 pixels and its picture 96 x 64"):
        segmenter(picture, texts, "none")


def test_the_grid_is_bounded():
    refiner, _ = create_refiner("vote", None, {"short_side": 32})
    image = torch.rand(3, 100, 150)
    prepared = refiner.prepare(RefinerInput(image, image), AuxiliaryModels())
    assert prepared.shape == (100, 150)
    assert refiner.refine(prepared, torch.rand(2, 5, 5)).shape == (2, 32, 48)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"region_maps": "nowhere"}, ["'nowhere'", "felzenszwalb"]),
        ({"vote": "all"}, ["'all'"]),
        ({"short_side": 0}, ["short_side=0"]),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(WordmaskError) as error:
        create_refiner("vote", None, options)
    assert all(word in str(error.value) for word in words)
