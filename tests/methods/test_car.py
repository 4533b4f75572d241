"""CaR: its pieces worked by hand, and what must hold for its rounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tiny import class_scores, save_tiny_clip, scored_of, tiny_clip, tiny_tokenizer
from wordmask import Background, Segmenter, WordmaskError
from wordmask.methods import create_method
from wordmask.methods.car import method as module
from wordmask.methods.car.visual_prompts import Prompter, blur, ellipse_around
from wordmask.methods.clip_es.maps import (
    cosine_maps,
    gradcam,
    over_maximum,
)
from wordmask.text_queries import TextQueries
from wordmask.towers.clip import ClipTower, Need

NAMES = ["cat", "dog", "photo", "car"]


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


def pictures(*shape: int, seed: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(shape[0], 3, shape[1] // 16, shape[2] // 16, generator=generator)
    return F.interpolate(small, size=shape[1:], mode="bilinear")


def unit_rows(count: int, seed: int = 1) -> torch.Tensor:
    return F.normalize(torch.randn(count, 48, generator=torch.Generator().manual_seed(seed)), dim=1)


def segmenter_of(clip, **options) -> Segmenter:
    return Segmenter.from_pretrained(clip, "car", None, options)


# -- GradCAM ----------------------------------------------------------------------------------


def last_block(tower: ClipTower, state: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """The picture's mean patch feature from z, written out with transformers' own modules."""
    layer = tower.vision.encoder.layers[-1]
    attended, _ = layer.self_attn(z, attention_mask=None)
    x = state + attended
    x = x + layer.mlp(layer.layer_norm2(x))
    return tower.model.visual_projection(tower.vision.post_layernorm(x)[0, 1:].mean(0))


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_one_backward_pass_for_each_word_gives_the_gradcam_of_every_probability(clip, scale):
    """Against the definition: backward of each softmax probability to every token of z."""
    tower, texts = ClipTower(clip), unit_rows(4)
    state = tower.trace(pictures(1, 64, 80), Need.of(states=[7])).states[7]
    z = tower.vision.encoder.layers[-1].layer_norm1(state).detach().requires_grad_()
    feature = F.normalize(last_block(tower, state, z), dim=0)
    expected = []
    for c in range(4):
        probability = torch.softmax(scale * texts @ feature, dim=0)[c]
        (gradient,) = torch.autograd.grad(probability, z, retain_graph=True)
        weights = gradient[0, 1:].mean(0)
        expected.append((z.detach()[0, 1:] @ weights).relu())
    with torch.inference_mode():
        cosines, signed = cosine_maps(tower, state[0], texts, 80)
        maps = gradcam(scale * cosines, signed)
    assert torch.allclose(cosines, (texts @ feature).detach(), atol=1e-6)
    assert torch.allclose(maps, over_maximum(torch.stack(expected)), atol=2e-4)
    assert len({int(m.argmax()) for m in maps}) > 1


def test_a_certain_word_keeps_its_map():
    """Its probability is 1 in float32 and the gradient 0; the map is that against the next word."""
    signed = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    maps = gradcam(torch.tensor([1000.0, 0.0]), signed)
    assert maps.tolist() == [[1.0, 0.0], [0.0, 1.0]]  # 3 - 1, 1 - 2; 1 - 3, 2 - 1


def test_gradcam_by_hand():
    """Three texts; for the first the others weigh 1/4 and 3/4."""
    logits = torch.tensor([0.5, 0.0, float(np.log(3.0))])
    signed = torch.tensor([[4.0, 1.0, -1.0], [0.0, 4.0, 0.0], [4.0, 0.0, -4.0]])
    first = torch.tensor([4 - 3.0, 1 - 1.0, -1 + 3.0])
    assert torch.allclose(gradcam(logits, signed)[0], first / 2)
    assert torch.equal(gradcam(torch.zeros(1), signed[:1])[0], torch.tensor([1.0, 0.25, 0.0]))
    assert not gradcam(torch.zeros(2), torch.ones(2, 3)).any()


# -- spreading --------------------------------------------------------------------------------


def test_maps_are_spread_from_inside_the_boxes_alone():
    method, _ = create_method("car")
    spread = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]])
    maps = torch.tensor([[1.0, 0.2, 0.5]])  # the middle is below 0.4 and parts the two boxes
    # A @ (1, 0, 0.5) = (0.5, 0, 0.5)
    assert method._spread(maps, spread, (1, 3)).tolist() == [[1.0, 0.0, 1.0]]


# -- visual prompts ---------------------------------------------------------------------------


def mask_of(height: int, width: int, *box: int) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    return mask


def test_prompts_change_the_outside_alone():
    unit = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    mask = mask_of(40, 60, 10, 30, 20, 50)
    for prompts in (("blur",), ("gray",), ("black",), ("blur", "gray")):
        drawn = Prompter(unit, prompts)(mask)
        assert torch.equal(drawn[:, mask], unit[:, mask])
        assert (drawn - unit)[:, ~mask].abs().max() > 0.1
    gray = Prompter(unit, ("gray",))(mask)[:, ~mask]
    luma = 0.299 * unit[0] + 0.587 * unit[1] + 0.114 * unit[2]
    assert torch.allclose(gray, luma[~mask].expand(3, -1))
    assert not Prompter(unit, ("black",))(mask)[:, ~mask].any()
    assert torch.equal(Prompter(unit, ())(mask), unit)


def test_blur_is_a_gaussian_of_15_pixels():
    dot = torch.zeros(3, 41, 41)
    dot[:, 20, 20] = 1
    spot = blur(dot)[0]
    assert spot.sum() == pytest.approx(1, abs=1e-5)
    assert (spot > 0).sum() == 15 * 15
    assert spot[20, 23] / spot[20, 20] == pytest.approx(np.exp(-4.5 / 2.6**2), rel=1e-4)
    assert torch.allclose(spot, spot.T)
    assert torch.allclose(blur(torch.full((3, 4, 9), 0.3)), torch.tensor(0.3))


def test_the_ellipse_touches_the_box_of_the_mask():
    line = ellipse_around(mask_of(60, 90, 20, 41, 30, 71))  # centre 30, 50; half axes 10, 20
    for y, x in ((20, 50), (40, 50), (30, 30), (30, 70)):
        assert line[y, x]
    for y, x in ((30, 50), (20, 30), (18, 50), (30, 73)):
        assert not line[y, x]
    y, x = line.nonzero(as_tuple=True)
    radius = (((y - 30) / 10) ** 2 + ((x - 50) / 20) ** 2).sqrt()
    assert (radius - 1).abs().max() < 0.15
    assert torch.equal(line, line.flip(0).roll(1, 0))  # rows y and 60 - y


def test_circle_is_red_and_lies_over_the_rest():
    unit = torch.full((3, 60, 90), 0.5)
    mask = mask_of(60, 90, 20, 41, 30, 71)
    drawn = Prompter(unit, ("circle", "black"))(mask)
    line = ellipse_around(mask)
    assert (drawn[:, line] == torch.tensor([[1.0], [0.0], [0.0]])).all()
    assert (drawn[:, mask & ~line] == 0.5).all()
    one = Prompter(unit, ("circle",))(mask_of(60, 90, 3, 4, 5, 6))  # a mask of one pixel
    assert torch.isfinite(one).all()
    assert (one != 0.5).any()


# -- the rounds -------------------------------------------------------------------------------


def test_a_word_that_is_not_there_is_dropped(clip):
    """A word that no prompted picture resembles, and one that all of them resemble."""
    segmenter = segmenter_of(clip)
    encoding = segmenter.encode(pictures(1, 64, 96))
    there = module.embed(ClipTower(clip), encoding.state.pictures)
    scores = class_scores(segmenter, encoding, torch.cat([-there, there, unit_rows(1)]))[0]
    assert not scores[0].any()
    assert scores[1].max() > 0.6
    labels = segmenter(encoding, torch.cat([-there, there, unit_rows(1)]), "none")[0].labels
    assert (labels == 2).any()
    assert not (labels == 1).any()


def test_the_words_left_are_a_fixed_point(clip):
    """Scored again with the words that stayed, the maps are the same; nothing else has a map."""
    segmenter = segmenter_of(clip, confidence=0.25)
    for seed in range(4):
        encoding = segmenter.encode(pictures(1, 64, 96, seed=seed))
        near = module.embed(ClipTower(clip), encoding.state.pictures)
        texts = F.normalize(near + 0.02 * seed * unit_rows(6, seed), dim=1)
        scores = class_scores(segmenter, encoding, texts)[0]
        left = scores.flatten(1).any(1)
        if left.any():
            again = class_scores(segmenter, encoding, texts[left])[0]
            assert torch.allclose(again, scores[left], atol=1e-5)
    assert 0 < left.sum() < 6


def test_words_go_in_rounds(clip, monkeypatch):
    """With one word less the others are compared again, prompted again if their masks changed."""
    counts = []
    real = module.embed

    def counted(tower, prompted):
        counts.append(len(prompted))
        return real(tower, prompted)

    monkeypatch.setattr(module, "embed", counted)
    segmenter = segmenter_of(clip)
    encoding = segmenter.encode(pictures(1, 64, 96))
    there = real(ClipTower(clip), encoding.state.pictures)
    segmenter.score(encoding, torch.cat([there, -there]))
    assert sum(counts) in (2, 3)  # both words, then the first if its mask is another
    counts.clear()
    segmenter.score(encoding, there)
    assert counts == [1]
    segmenter.score(encoding, torch.cat([there] * 9 + [-there]))
    assert max(counts) == module.AT_ONCE


def test_the_surest_word_stays_when_none_is_sure(clip):
    """Several words of the same text have one share each, and none reaches the confidence."""
    segmenter = segmenter_of(clip)
    encoding = segmenter.encode(pictures(1, 64, 64))
    same = unit_rows(1).expand(3, -1)
    scores = class_scores(segmenter, encoding, same)[0]
    alone = class_scores(segmenter, encoding, same[:1])[0, 0]
    assert torch.allclose(scores[0], alone, atol=1e-5)
    assert not scores[1:].any()
    texts, never = unit_rows(3, seed=2), segmenter_of(clip, confidence=0.999)
    kept = class_scores(never, encoding, texts)[0].flatten(1).any(1)
    sure = class_scores(segmenter_of(clip, confidence=0.0), encoding, texts)[0].amax((1, 2))
    assert sure.max() < 0.999
    assert kept.tolist() == (sure == sure.max()).tolist()


def test_the_last_word_stays(clip):
    scores = class_scores(segmenter_of(clip), pictures(1, 64, 64), unit_rows(1))
    assert scores.max() == 1
    assert scores.min() >= 0


def test_background_words_compete_for_maps_and_have_none(clip):
    segmenter = segmenter_of(clip)
    encoding = segmenter.encode(pictures(1, 64, 96))
    alone = class_scores(segmenter, encoding, unit_rows(2))
    among = class_scores(segmenter, encoding, unit_rows(2), unit_rows(3, seed=5))
    assert alone.shape == among.shape
    assert (alone - among).abs().max() > 1e-3


def test_synonyms_are_one_text(clip):
    segmenter = segmenter_of(clip)
    encoding = segmenter.encode(pictures(1, 64, 96))
    rows = unit_rows(3)

    def scores(*classes):
        return segmenter.method.scores(segmenter.towers, encoding, TextQueries.of(classes))

    once = scores(rows[:1], rows[1:2], rows[2:])
    twice = scores(rows[[0, 0]], rows[1:2], rows[2:])
    assert torch.allclose(once, twice, atol=1e-6)
    mean = F.normalize(rows[:2].mean(0, keepdim=True), dim=1)
    assert torch.allclose(scores(rows[:2], rows[2:]), scores(mean, rows[2:]), atol=1e-6)


def test_no_gradient_is_left(clip):
    flags = [p.requires_grad for p in clip.parameters()]
    segmenter = segmenter_of(clip)
    scores = class_scores(segmenter, pictures(1, 64, 64), unit_rows(3))
    assert all(p.grad is None for p in clip.parameters())
    assert [p.requires_grad for p in clip.parameters()] == flags
    assert not scores.requires_grad
    frozen = tiny_clip().requires_grad_(False)
    again = segmenter_of(frozen)
    assert torch.equal(class_scores(again, pictures(1, 64, 64), unit_rows(3)), scores)


def test_pictures_have_their_own_rounds(clip):
    """Whatever else is in the batch, and for a batch of which one picture drops all words."""
    segmenter = segmenter_of(clip)
    image = torch.cat([pictures(1, 64, 96, seed=s) for s in range(3)])
    texts = unit_rows(4, seed=2)
    batch = class_scores(segmenter, image, texts)
    for i in range(3):
        single = class_scores(segmenter, image[i : i + 1], texts)[0]
        assert torch.allclose(single, batch[i], atol=1e-5)


# -- the second CLIP --------------------------------------------------------------------------


def test_the_same_clip_as_second_one_changes_nothing(tmp_path):
    save_tiny_clip(tmp_path)
    model = tiny_clip()
    image = pictures(1, 64, 96)
    same = Segmenter.from_pretrained(model, "car", tokenizer=tiny_tokenizer())
    second = Segmenter.from_pretrained(
        model,
        "car",
        None,
        {"classifier": "second"},
        tokenizer=tiny_tokenizer(),
        networks={"classifier": str(tmp_path)},
    )
    scores = [class_scores(s, image, NAMES) for s in (same, second)]
    assert scores[0].any()
    assert torch.allclose(scores[0], scores[1], atol=1e-5)


def test_a_second_clip_of_other_sizes_decides(tmp_path):
    save_tiny_clip(tmp_path, width=32, projection=24, patch=14, image_size=42, seed=5)
    segmenter = Segmenter.from_pretrained(
        tiny_clip(),
        "car",
        None,
        {"classifier": "second", "confidence": 0.0},
        tokenizer=tiny_tokenizer(),
        networks={"classifier": str(tmp_path)},
    )
    encoding = segmenter.encode(pictures(1, 64, 96))
    scores = class_scores(segmenter, encoding, NAMES)[0].amax((1, 2))
    own = Segmenter.from_pretrained(
        tiny_clip(), "car", None, {"confidence": 0.0}, tokenizer=tiny_tokenizer()
    )
    assert (scores - class_scores(own, encoding, NAMES)[0].amax((1, 2))).abs().max() > 1e-3
    assert set(segmenter.networks.describe()) == {"classifier"}
    with pytest.raises(WordmaskError, match="words as a tensor and classifier='second'"):
        segmenter.score(encoding, unit_rows(2))


def test_a_second_clip_without_words(clip):
    segmenter = Segmenter.from_pretrained(
        clip,
        "car",
        None,
        {"classifier": "second"},
        tokenizer=tiny_tokenizer(),
        networks={"classifier": tiny_clip(seed=3)},
    )
    with pytest.raises(WordmaskError, match="tokenizer"):
        segmenter.score(pictures(1, 64, 64), NAMES, "none")


def test_words_have_two_sets_of_prompts(clip):
    """One prompt for the maps, fifteen for the prompted pictures."""
    segmenter = Segmenter.from_pretrained(clip, "car", tokenizer=tiny_tokenizer())
    texts = segmenter.encode_text([["cat", "dog"], ["car"]], "none")
    assert segmenter.text is not None
    rows = segmenter.text.encode(["cat", "dog", "car"], "cliper")
    expected = F.normalize(torch.stack([rows[:2].mean(0), rows[2]]), dim=1)
    labels = segmenter.method._labels(
        segmenter.towers, texts, texts.embeddings[:2], segmenter.tower
    )
    assert torch.allclose(labels, expected, atol=1e-6)
    origami = segmenter.text.encode(["cat"], ["a clean origami {}."])
    assert torch.allclose(texts.embeddings[:1], origami, atol=1e-6)


# -- labels -----------------------------------------------------------------------------------


def labels_of(maps: torch.Tensor, background: Background) -> list[list[int]]:
    method, _ = create_method("car", None, {"mask_threshold": 0.5})
    texts = TextQueries.of(list(torch.eye(len(maps))[:, None]), strategy=background)
    size = (maps.shape[1], maps.shape[2])
    return scored_of(method, maps, texts, size).labels().tolist()


def test_the_surest_mask_is_painted_last():
    """Scores 0.9 and 0.7, masks where a map is above half of its maximum; the third is dropped."""
    maps = torch.zeros(3, 1, 5)
    maps[0, 0] = 0.9 * torch.tensor([1.0, 0.6, 0.3, 0.1, 0.0])
    maps[1, 0] = 0.7 * torch.tensor([0.2, 1.0, 1.0, 0.4, 0.0])
    names = Background.names(["sky"])
    assert labels_of(maps, names) == [[1, 1, 2, 0, 0]]
    # with no background every pixel has a word: 0.28 against 0.09, then 0 against 0
    assert labels_of(maps, Background.none()) == [[1, 1, 2, 2, 1]]
    # a threshold on the weighted map on top: 0.9, 0.54, 0.7
    assert labels_of(maps, Background.threshold(0.6)) == [[1, 0, 2, 0, 0]]
    assert labels_of(torch.zeros(2, 1, 3), names) == [[0, 0, 0]]


# -- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"confidence": 1.0}, "confidence=1.0"),
        ({"mask_threshold": -0.1}, "mask_threshold=-0.1"),
        ({"box_threshold": 2.0}, "box_threshold=2.0"),
        ({"prompts": ("blurr",)}, "did you mean blur"),
        ({"attention_blocks": 0}, "attention_blocks=0"),
        ({"classifier": "third"}, '"second"'),
    ],
)
def test_wrong_options(clip, options, words):
    with pytest.raises(WordmaskError) as caught:
        segmenter_of(clip, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_patch_and_no_prompt(clip):
    """The smallest picture there is, and pictures as they are."""
    segmenter = segmenter_of(clip, prompts=())
    scores = class_scores(segmenter, torch.zeros(1, 3, 8, 8), unit_rows(3))
    assert scores.shape == (1, 3, 1, 1)
    assert torch.isfinite(scores).all()
