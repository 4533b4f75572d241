"""PAMR: the released code's numbers, a step worked by hand, and what must hold of any picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from places import GOLDEN
from tiny import tiny_clip
from wordmask import Background, Segmenter, WordmaskError
from wordmask.refiners.base import RefinerInput, create_refiner
from wordmask.refiners.pamr import Pamr, shifted
from wordmask.text_queries import TextQueries
from wordmask.towers.auxiliary import AuxiliaryModels

CASES = {
    "out.steps1.dil1": {"steps": 1, "dilations": (1,)},
    "out.steps10.dil8_16": {},
    "out.steps5.dil1_2_4": {"steps": 5, "dilations": (1, 2, 4)},
}


def refine(refiner: Pamr, image: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return refiner.refine(refiner.prepare(RefinerInput(image, image), AuxiliaryModels()), scores)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CASES)
def test_golden(name):
    golden = load_file(GOLDEN / "pamr" / "small" / "tensors.safetensors")
    ours = refine(create_refiner("pamr", None, CASES[name])[0], golden["image"], golden["mask"])
    assert ours.shape == golden[name].shape
    assert (ours - golden[name]).abs().max() <= 1e-5


def test_golden_harness():
    """The picture at CLIP's size is brought to the size of the result, and cosines are refined."""
    given = load_file(GOLDEN / "harness_slide_sclip" / "odd_size" / "tensors.safetensors")
    golden = load_file(GOLDEN / "pamr" / "harness" / "tensors.safetensors")["logits_pamr"]
    refiner, _ = create_refiner("pamr", None, {"at": "picture"})
    given_picture = RefinerInput(torch.zeros(3, *golden.shape[1:]), given["image"][0])
    ours = refiner.refine(refiner.prepare(given_picture, AuxiliaryModels()), given["logits"])
    assert (ours - golden).abs().max() <= 1e-5


def test_windows_then_pamr_at_the_size_of_the_picture(golden_clip):
    """The whole path of the released harness: windows, their mean, PAMR, area rule, labels."""
    given = load_file(GOLDEN / "harness_slide_sclip" / "odd_size" / "tensors.safetensors")
    golden = load_file(GOLDEN / "pamr" / "harness" / "tensors.safetensors")["logits_pamr"]
    final = load_file(GOLDEN / "harness_slide_sclip" / "odd_size_pamr_area" / "tensors.safetensors")
    rows, index, size = given["query_features"], given["query_index"], (60, 73)
    options = {"window": 112, "stride": 56, "area_threshold": 0.1}
    refine = [("pamr", {"at": "picture"})]
    segmenter = Segmenter.from_pretrained(golden_clip, "sclip", None, options, refine=refine)
    encoding = segmenter.pipeline.encode(given["image"], [size], [np.zeros((*size, 3), np.uint8)])
    classes, threshold = list(rows[index > 0][:, None]), Background.threshold(0.21)
    (scored,) = segmenter.score(
        encoding, TextQueries.of(classes, rows[index == 0], strategy=threshold)
    )
    order = [3, 4, 5, 6, 7, 0, 1, 2]  # ours: classes before background
    assert (scored.maps.rows(0, 60, size) - golden[order]).abs().max() <= 1e-5
    assert (scored.labels() == final["pred"].numpy()).mean() >= 0.9995


@pytest.mark.parametrize("at", ["clip", "picture"])
@pytest.mark.parametrize("options", [{}, {"window": 48, "stride": 24}, {"remainder": "pad"}])
def test_no_step_changes_nothing(at, options):
    clip, rows = tiny_clip(layers=3), F.normalize(noise(4, 48) - 0.5, dim=-1)
    picture = (255 * noise(90, 126, 3)).byte().numpy()
    options = {"short_side": 60, **options}
    plain = Segmenter.from_pretrained(clip, "clip", None, options)(picture, rows, "none")
    refine = [("pamr", {"steps": 0, "at": at})]
    same = Segmenter.from_pretrained(clip, "clip", None, options, refine=refine)
    result = same(picture, rows, "none")
    assert np.array_equal(result.labels, plain.labels)
    assert np.array_equal(result.scores, plain.scores)


@pytest.mark.parametrize("at", ["clip", "picture"])
def test_flat_weights_leave_rows_where_they_are(at):
    """On a picture of one colour PAMR blurs, and moves nothing up or down, left or right."""
    refine = [("pamr", {"steps": 1, "dilations": (1,), "at": at})]
    segmenter = Segmenter.from_pretrained(tiny_clip(layers=3), "clip", refine=refine)
    encoding = segmenter.encode(np.full((64, 96, 3), 90, np.uint8))
    maps = torch.zeros(1, 3, 8, 12)
    maps[0, 0, 1, 1] = maps[0, 1, 6, 10] = 1.0  # two patches, alike but for a turn of 180 degrees
    given = encoding.score_map(maps)
    fine = segmenter.pipeline._refine(encoding, 0, given, segmenter.refiners)
    refined = fine.rows(0, 64, (64, 96))
    y, x = torch.arange(64.0) + 0.5, torch.arange(96.0) + 0.5
    first, second = refined[0] / refined[0].sum(), refined[1] / refined[1].sum()
    for mass, centre in ((first, (12, 12)), (second, (52, 84))):
        assert (mass.sum(1) @ y).item() == pytest.approx(centre[0], abs=0.1)
        assert (mass.sum(0) @ x).item() == pytest.approx(centre[1], abs=0.1)


@pytest.mark.parametrize("level", [0.0, 2.0, 1.7])
def test_the_number_of_threads_does_not_matter(level):
    """Where an area is clipped to one colour its deviation is 0, whatever the last bits."""
    pixels = 3 * noise(3, 97, 131) - 1
    pixels[:, 20:70, 30:100] = level
    given = RefinerInput(torch.zeros(3, 203, 277), pixels)
    scores = noise(3, 203, 277, seed=1)
    refiner, found, threads = Pamr(at="picture"), [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(refiner.refine(refiner.prepare(given, AuxiliaryModels()), scores))
    finally:
        torch.set_num_threads(threads)
    assert (found[0] - found[1]).abs().max() <= 1e-6
    assert (found[0] - found[2]).abs().max() <= 1e-6


def test_one_step_by_hand():
    """Two flat halves: across the edge the weight is e^-x of inside, inside scores stay."""
    image = torch.zeros(3, 1, 4)
    image[:, :, 2:] = 1.0
    refiner = Pamr(steps=1, dilations=(1,))
    weights = refiner.prepare(RefinerInput(image, image), AuxiliaryModels())[:, 0]
    # around pixel 1 lie columns 0, 1, 2 three times each: deviation of 3 ones in 9, distance 1 / it
    sigma = torch.tensor([1.0] * 3 + [0.0] * 6).std()
    far = torch.exp(-1 / (1e-8 + 0.1 * sigma))
    expected = torch.tensor([1, 1, far, 1, far, 1, 1, far]) / (5 + 3 * far)
    assert torch.allclose(weights[:, 1], expected, atol=1e-6)
    assert torch.allclose(weights[:, 0], torch.full((8,), 1 / 8))  # a flat surrounding
    scores = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    out = refine(Pamr(steps=1, dilations=(1,)), image, scores)
    assert torch.allclose(out[0, 0, 1], 3 * far / (5 + 3 * far), atol=1e-6)


def test_neighbours_repeat_beyond_the_border():
    x = torch.arange(6.0).view(1, 2, 3)
    up_left, up, *_, down_right = list(shifted(x, 1))
    assert up_left[0].tolist() == [[0, 0, 1], [0, 0, 1]]
    assert up[0].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert down_right[0].tolist() == [[4, 5, 5], [4, 5, 5]]
    assert [list(shifted(x, 5))[4][0].tolist()] == [x[0].tolist()]


@pytest.mark.parametrize("size", [(20, 33), (33, 20), (1, 1), (3, 50)])
def test_weights_are_weights(size):
    weights = Pamr().prepare(RefinerInput(noise(3, *size), noise(3, *size)), AuxiliaryModels())
    assert weights.shape == (16, *size)
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(0), torch.ones(size), atol=1e-5)


@pytest.mark.parametrize("variant", ["harness", "fine"])
def test_a_flat_picture_blurs_and_keeps_the_range(variant):
    refiner, _ = create_refiner("pamr", variant)
    scores = noise(5, 4, 6, seed=1)
    out = refine(refiner, torch.full((3, 24, 36), 0.3), scores)
    assert torch.isfinite(out).all()
    assert out.min() >= scores.min() - 1e-5
    assert out.max() <= scores.max() + 1e-5
    assert out.std() < scores.std()


def test_constant_scores_stay():
    out = refine(Pamr(), noise(3, 24, 36), torch.full((2, 3, 5), 0.7))
    assert torch.allclose(out, torch.full((2, 24, 36), 0.7), atol=1e-5)


def test_maps_are_refined_alone_whatever_the_chunk(monkeypatch):
    image, scores = noise(3, 20, 30), noise(7, 5, 6, seed=2)
    together = refine(Pamr(), image, scores)
    monkeypatch.setattr("wordmask.refiners.pamr.BLOCK_BYTES", 1)
    assert torch.equal(refine(Pamr(), image, scores), together)
    for i in range(7):
        assert torch.equal(refine(Pamr(), image, scores[i : i + 1])[0], together[i])


def test_brightness_and_contrast_do_not_matter():
    """Weights compare differences with deviations, so any normalisation gives the same."""
    image, scores = noise(3, 20, 30), noise(2, 5, 6, seed=2)
    assert torch.allclose(
        refine(Pamr(), image, scores), refine(Pamr(), 4 * image - 1, scores), atol=1e-5
    )


def test_scores_follow_an_edge():
    """A coarse blob over a picture of two halves ends up on the half that it mostly covers."""
    image = torch.zeros(3, 32, 64)
    image[:, :, 32:] = 1.0
    image += 0.02 * noise(3, 32, 64)
    scores = torch.zeros(1, 4, 8)
    scores[..., :5] = 1.0  # reaches 8 pixels beyond the edge
    plain = F.interpolate(scores[None], size=(32, 64), mode="bilinear", align_corners=True)[0]
    target = image[0] < 0.5
    out = refine(Pamr(steps=50, dilations=(1, 2, 4, 8)), image, scores)

    def right(x: torch.Tensor) -> float:
        return ((x[0] > x[0].mean()) == target).float().mean().item()

    assert right(out) > right(plain)


def test_a_picture_is_prepared_once_whatever_the_words():
    clip = tiny_clip()
    segmenter = Segmenter.from_pretrained(clip, "sclip", refine="pamr")
    image = F.interpolate(torch.randn(2, 3, 8, 10), size=(64, 80), mode="bilinear")
    encoding = segmenter.encode(image)
    prepared = dict(encoding.prepared)
    assert len(prepared) == 2
    rows = F.normalize(torch.randn(4, 48), dim=-1)
    results = segmenter(encoding, rows)
    segmenter(encoding, rows[:2])
    assert all(encoding.prepared[key] is value for key, value in prepared.items())
    assert [r.labels.shape for r in results] == [(64, 80)] * 2
    single = segmenter(image[1:], rows)[0]
    assert (single.labels == results[1].labels).mean() > 0.999


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": -1}, "steps=-1"),
        ({"dilations": ()}, "dilations=()"),
        ({"dilations": (0, 8)}, "dilations=(0, 8)"),
        ({"dilations": 8}, "tuple of int"),
        ({"at": "image"}, '"picture"'),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(WordmaskError) as caught:
        create_refiner("pamr", None, options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
