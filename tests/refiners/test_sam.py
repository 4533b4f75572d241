"""SAM and SAM 2 behind one tower, and score maps that prompt them or vote in their masks."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from places import GOLDEN
from tiny import surgery_of_one, tiny_clip, tiny_sam
from wordmask import Segmenter, WordmaskError
from wordmask.refiners.base import RefinerInput, create_refiner
from wordmask.refiners.sam import box_around, peak_places, text_to_points, vote
from wordmask.towers.auxiliary import AuxiliaryModels
from wordmask.towers.sam import (
    Masks,
    SamTower,
    centres,
    choose_masks,
    different,
    good_masks,
    load_sam,
    pick_evenly,
)

VERSIONS = [1, 2]
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture(scope="module", params=VERSIONS)
def model(request):
    return tiny_sam(request.param)


@pytest.fixture(scope="module")
def tower(model):
    return SamTower(model)


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    small = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(small[None], size=(height, width), mode="bilinear")[0]


def normalised(image: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    return (image - mean) / std


# -- the tower --------------------------------------------------------------------------------


def test_points_and_boxes_as_transformers_has_them(model, tower):
    """A picture as large as the network's square: nothing is resized, places are theirs + 0.5."""
    image = picture(64, 64)
    points = torch.tensor([[[10, 20], [40, 8]], [[63, 0], [5, 5]], [[1, 2], [3, 4]]])
    labels = torch.tensor([[1, 0], [1, 1], [0, 1]])
    boxes = torch.tensor([[3, 4, 20, 30], [0, 0, 63, 63], [30, 2, 40, 60]])
    with torch.no_grad():
        theirs = model(
            pixel_values=normalised(image)[None],
            input_points=points[None].float(),
            input_labels=labels[None],
            input_boxes=boxes[None].float(),
        )
    ours = tower.embed(image).predict(points + 0.5, labels, boxes + 0.5)
    assert ours.logits.shape == (3, 3, 16, 16)
    assert torch.allclose(ours.logits, theirs.pred_masks[0], atol=1e-4)
    assert torch.allclose(ours.iou, theirs.iou_scores[0], atol=1e-5)


def test_mask_prompts_as_transformers_has_them(model, tower):
    image, mask = picture(64, 64), 5 * torch.randn(16, 16, generator=torch.manual_seed(0))
    with torch.no_grad():
        theirs = model(
            pixel_values=normalised(image)[None],
            input_masks=mask[None, None],
            multimask_output=False,
        )
    ours = tower.embed(image).predict(masks=mask[None], multimask=False)
    assert ours.logits.shape == (1, 1, 16, 16)
    assert torch.allclose(ours.logits, theirs.pred_masks[0], atol=1e-4)


@pytest.mark.parametrize("size", [(40, 80), (80, 40), (64, 64), (7, 200), (1, 1)])
def test_any_size(tower, size):
    embedded = tower.embed(picture(*size))
    assert embedded.size == size
    assert max(embedded.grid) == 16
    short = 16 * min(size) / max(size)
    assert min(embedded.grid) == 1 or abs(min(embedded.grid) - short) <= 0.5
    masks = embedded.predict(torch.rand(2, 3, 2) * torch.tensor([size[1], size[0]]))
    assert masks.logits.shape == (2, 3, *embedded.grid)
    assert torch.isfinite(masks.logits).all()
    assert masks.best.shape == (2, *embedded.grid)


class Pointer(nn.Module):
    """Gives for a point a mask whose highest place is that point."""

    def __init__(self, sam: nn.Module):
        super().__init__()
        self.sam, self.config = sam, sam.config
        self.vision_encoder, self.prompt_encoder = sam.vision_encoder, sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder

    def get_image_embeddings(self, pixels):
        return self.sam.get_image_embeddings(pixels)

    def forward(self, input_points, input_labels, image_embeddings, multimask_output):
        middle = torch.arange(16) * 4.0 + 2  # of the mask's pixels, on the square of 64
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        far = torch.stack([x, y], -1) - (input_points[:, 0, 0] + 0.5)[:, None, None]
        masks = -far.norm(dim=-1)[:, None, None]  # (P, 1, 1, 16, 16)
        return SimpleNamespace(pred_masks=masks, iou_scores=torch.zeros(len(masks), 1, 1))


@pytest.mark.parametrize("size", [(40, 80), (80, 40), (200, 130)])
def test_places_are_where_they_are_in_the_picture(model, size):
    embedded = SamTower(Pointer(model)).embed(picture(*size))
    places = torch.tensor([[0.1, 0.7], [0.8, 0.2], [0.5, 0.5]]) * torch.tensor([size[1], size[0]])
    for place, mask in zip(places, embedded.predict(places[:, None]).best, strict=True):
        found = centres(mask.argmax(), embedded.grid, size)
        assert (found - place).abs().max() <= max(size) / 16


def test_many_prompts_are_single_prompts(tower):
    embedded = tower.embed(picture(40, 60))
    points = torch.rand(35, 2, 2, generator=torch.manual_seed(1)) * 40
    together = embedded.predict(points)
    for i in (0, 15, 16, 34):
        alone = embedded.predict(points[i : i + 1])
        assert torch.allclose(alone.logits[0], together.logits[i], atol=1e-4)
        assert torch.allclose(alone.iou[0], together.iou[i], atol=1e-5)
    assert embedded.predict(points[:0]).logits.shape == (0, 1, *embedded.grid)


def test_mask_prompts_of_other_shapes(tower):
    """Beyond the picture the prompt is negative, inside it is where it was."""
    embedded = tower.embed(picture(32, 64))
    prompt = embedded._mask_prompts(torch.full((1, 8, 16), 3.0))[0, 0]
    assert prompt.shape == (16, 16)
    covered = 8 if tower.keeps_aspect else 16
    assert torch.allclose(prompt[:covered], torch.full((covered, 16), 3.0))
    assert (prompt[covered:] < -3).all()
    halves = torch.full((1, 8, 16), -3.0)
    halves[..., 8:] = 3.0
    prompt = embedded._mask_prompts(halves)[0, 0]
    assert (prompt[:6, 9:15] > 0).all()
    assert (prompt[:6, :7] < 0).all()


def test_separate(tower):
    """Own points are positive, the others' negative; a group of none has no mask."""
    embedded = tower.embed(picture(40, 60))
    groups = [
        torch.tensor([[10.0, 10.0], [12.0, 11.0]]),
        torch.tensor([[50.0, 30.0]]),
        torch.empty(0, 2),
    ]
    masks = embedded.separate(groups)
    labels = torch.tensor([[1, 1, 0]])
    assert torch.allclose(
        masks[0], embedded.predict(torch.cat(groups)[None], labels).best[0], atol=1e-5
    )
    assert (masks[2] < 0).all()
    assert embedded.separate([]).shape == (0, *embedded.grid)


def test_nothing_is_left_behind(model, tower):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tower.embed(picture(30, 50)).predict(torch.rand(3, 2, 2) * 30)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not model.training


def test_bfloat16(model):
    image, points = picture(40, 60), torch.tensor([[[10.0, 10.0]]])
    full = SamTower(model).embed(image).predict(points)
    version = 1 if model.config.model_type == "sam" else 2
    half = SamTower(tiny_sam(version).bfloat16()).embed(image).predict(points)
    assert half.logits.dtype == torch.float32
    assert (half.logits - full.logits).abs().max() < 0.2 * full.logits.abs().max()


@pytest.mark.parametrize(
    "prompts",
    [
        {},
        {"points": torch.zeros(2, 2)},
        {"points": torch.zeros(2, 3, 2), "labels": torch.zeros(2, 2)},
        {"points": torch.zeros(2, 3, 2), "boxes": torch.zeros(1, 4)},
        {"boxes": torch.zeros(2, 3)},
        {"masks": torch.zeros(8, 8)},
        {"labels": torch.zeros(2, 3)},
    ],
)
def test_prompts_that_do_not_fit(prompts):
    embedded = SamTower(tiny_sam()).embed(picture(40, 60))
    with pytest.raises(WordmaskError) as caught:
        embedded.predict(**prompts)
    assert "give P prompts" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_that_is_none():
    with pytest.raises(WordmaskError, match=r"\(1, 40, 60\)"):
        SamTower(tiny_sam()).embed(torch.zeros(1, 40, 60))


# -- loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_loading_a_folder(tmp_path, version):
    tiny_sam(version).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]})
    )
    tower = load_sam(tmp_path, **CPU)
    assert (tower.mean, tower.std) == ((0.5,) * 3, (0.25,) * 3)
    assert tower.keeps_aspect == (version == 1)
    points = torch.tensor([[[10.0, 10.0]]])
    same = SamTower(tiny_sam(version), mean=tower.mean, std=tower.std)
    image = picture(40, 60)
    assert torch.equal(
        tower.embed(image).predict(points).logits, same.embed(image).predict(points).logits
    )


def test_loading_the_video_checkpoints_of_sam_2(tmp_path):
    tiny_sam(2).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "sam2_video"}))
    assert not load_sam(tmp_path, **CPU).keeps_aspect


def half_downloaded(folder):
    tiny_sam().save_pretrained(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def without_some_weights(folder):
    tiny_sam().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in weights.items() if not k.startswith("mask_decoder.iou")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def without_any_weights(folder):
    tiny_sam().save_pretrained(folder)
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: None, ["has no config.json"]),
        (without_any_weights, ["lacks model.safetensors or"]),
        (half_downloaded, ["cannot load SAM in"]),
        (without_some_weights, ["lack", "mask_decoder.iou", "not a complete SAM"]),
        (lambda folder: tiny_clip().save_pretrained(folder), ["'clip' model", "SAM or SAM 2"]),
    ],
)
def test_folders_that_are_no_sam(tmp_path, prepare, words):
    prepare(tmp_path)
    with pytest.raises(WordmaskError) as caught:
        load_sam(tmp_path, **CPU)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_sources(tmp_path):
    for source in (tmp_path / "none", "facebook/sam-that-is-not-here"):
        with pytest.raises(WordmaskError) as caught:
            load_sam(source, **CPU, cache_dir=tmp_path, local_files_only=True)
        assert "\n" not in str(caught.value)


def test_another_module_in_memory():
    with pytest.raises(WordmaskError, match="got CLIPModel as SAM"):
        load_sam(tiny_clip(), **CPU)


# -- small parts ------------------------------------------------------------------------------


def test_centres_and_even_picks():
    assert centres(torch.tensor([0, 5]), (2, 3), (20, 60)).tolist() == [[10, 5], [50, 15]]
    assert pick_evenly(torch.arange(9), 3).tolist() == [0, 4, 8]
    assert pick_evenly(torch.arange(2), 3).tolist() == [0, 1]


def test_peaks_and_boxes_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.3], [0.8, 0.2, 0.7]])
    where = torch.tensor([[True, False, True], [True, True, True]])
    places = peak_places(scores, where, 2, (20, 30))
    assert places.tolist() == [[5, 15], [25, 15]]
    assert len(peak_places(scores, where, 99, (20, 30))) == 5
    where = torch.zeros(10, 20, dtype=torch.bool)
    where[2:5, 4:8] = True
    assert torch.allclose(box_around(where, (100, 100)), torch.tensor([20.0, 20, 40, 50]), atol=1)


@pytest.mark.parametrize("case", ["a_native_112x112", "b_square_160x160"])
def test_text_to_points_golden(case, golden_clip, golden_inputs):
    """From the picture to the points that CLIP Surgery's released code gives SAM."""
    golden = load_file(GOLDEN / "clip_surgery_points" / case / "tensors.safetensors")
    segmenter = Segmenter.from_pretrained(golden_clip, "clip_surgery", "feature-surgery")
    image = golden_inputs[f"image.{case}"]
    text = golden_inputs["text_features"][:1]
    scores = surgery_of_one(segmenter, image, text, golden["redundant_feature"])
    points, labels = text_to_points(scores[0, 0], (image.shape[2], image.shape[3]))
    assert points.long().tolist() == golden["points"].tolist()
    assert labels.tolist() == golden["point_labels"].tolist()


def test_text_to_points_of_flat_and_small_maps():
    for size in ((1, 1), (1, 9), (4, 6)):
        points, labels = text_to_points(torch.zeros(size), (40, 60))
        assert len(points) == len(labels) == 2 * labels.sum()
        assert (points >= 0).all()
        assert (points <= torch.tensor([60, 40])).all()


def test_different_masks_by_hand():
    masks = torch.full((4, 2, 4), -1.0)
    masks[0, :, :2] = 1
    masks[1, :, :2] = 1  # the same as 0
    masks[2, 0, :2] = 1  # half of 0
    masks[3, :, 2:] = 1
    assert different(masks, 0.7).tolist() == [0, 2, 3]
    assert different(masks, 0.4).tolist() == [0, 3]
    assert different(masks[:0], 0.7).tolist() == []


def test_vote_by_hand():
    scores = torch.tensor([[[1.0, 0.0, 0.5, 0.2]]])
    masks = torch.tensor([[[True, True, False, False]], [[False, True, True, False]]])
    out = vote(masks, torch.tensor([1.0, 3.0]), scores)
    # means inside: 0.5 and 0.25; the middle pixel has both, weighted 1 to 3; the last has none
    expected = torch.tensor([0.5, (0.5 + 3 * 0.25) / 4, 0.25, 0.2])
    assert torch.allclose(out[0, 0], expected, atol=1e-6)
    none = vote(masks[:0], torch.empty(0), scores)
    assert torch.equal(none, scores)


def test_true_masks_clean_noisy_scores():
    """Masks of the things in a picture: every pixel is right after the vote, and many before."""
    generator = torch.manual_seed(0)
    target = torch.zeros(32, 48, dtype=torch.long)
    target[4:20, 6:22] = 1
    target[18:30, 26:44] = 2
    scores = F.one_hot(target, 3).permute(2, 0, 1) + 1.5 * torch.randn(
        3, 32, 48, generator=generator
    )
    masks = torch.stack([target == c for c in range(3)])
    assert (scores.argmax(0) == target).float().mean() < 0.8
    assert (vote(masks, torch.full((3,), 0.9), scores).argmax(0) == target).all()


def test_choosing_masks():
    """Masks below the wanted quality, unstable, empty or the same as a better one are dropped."""
    logits = torch.full((3, 2, 8, 8), -9.0)
    logits[0, 0, :4] = 9.0
    logits[0, 1, :4] = 9.0  # the same, of lower quality
    logits[1, 0, 4:] = 9.0  # bad
    logits[1, 1, :, :2] = 9.0
    logits[1, 1, :, 2:] = 0.0  # unstable: grows to the whole picture
    logits[2, 1, :, 6:] = 9.0
    iou = torch.tensor([[0.95, 0.9], [0.3, 0.9], [0.99, 0.85]])
    masks, quality = choose_masks(*good_masks(Masks(logits, iou), 0.8), 0.7)
    assert torch.allclose(quality, torch.tensor([0.95, 0.85]))
    assert masks[0, :4].all()
    assert masks[1, :, 6:].all()
    assert masks.sum() == 32 + 16


# -- the refiner ------------------------------------------------------------------------------

PROMPTS = ["vote", "points", "boxes", "masks", "surgery"]


def prepared_by(prompt, model, image, **options):
    refiner, _ = create_refiner("sam", prompt, {"points_per_side": 3, "min_iou": -9.0, **options})
    return refiner, refiner.prepare(RefinerInput(image, image), AuxiliaryModels({"sam": model}))


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("size", [(40, 60), (60, 40)])
def test_refined_maps(model, prompt, size):
    """On SAM's grid over the whole picture, within the range of the scores, and not the same."""
    image = picture(*size)
    scores = torch.rand(4, size[0] // 8, size[1] // 8, generator=torch.manual_seed(3))
    refiner, prepared = prepared_by(prompt, model, image)
    given = scores.clone()
    out = refiner.refine(prepared, scores)
    assert torch.equal(scores, given)
    assert out.shape == (4, *SamTower(model).embed(image).grid)
    assert out.min() >= scores.min() - 1e-5
    assert out.max() <= scores.max() + 1e-5
    plain = F.interpolate(scores[None], size=out.shape[1:], mode="bilinear")[0]
    assert (out - plain).abs().max() > 1e-3


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_constant_map_stays(model, prompt):
    refiner, prepared = prepared_by(prompt, model, picture(40, 60))
    out = refiner.refine(prepared, torch.full((1, 5, 7), 0.25))
    assert torch.allclose(out, torch.full_like(out, 0.25), atol=1e-5)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_permuting_maps_permutes_the_result(model, prompt):
    scores = torch.rand(4, 5, 7, generator=torch.manual_seed(3))
    order = torch.tensor([2, 0, 3, 1])
    # few enough points for all of them to be prompts, since even picks depend on the order
    refiner, prepared = prepared_by(prompt, model, picture(40, 60), points=64)
    out, permuted = refiner.refine(prepared, scores), refiner.refine(prepared, scores[order])
    assert torch.allclose(permuted, out[order], atol=1e-4)


def test_the_grid_of_points_in_parts(model, monkeypatch):
    image = picture(40, 60)
    _, (masks, quality) = prepared_by("vote", model, image)
    assert len(masks) > 1
    monkeypatch.setattr("wordmask.towers.sam.PROMPTS", 2)
    _, (parts, same) = prepared_by("vote", model, image)
    assert torch.equal(masks, parts)
    assert torch.allclose(quality, same, atol=1e-5)


def test_a_map_that_is_nowhere_the_highest_is_only_stretched(model):
    scores = torch.stack([torch.ones(5, 7), torch.rand(5, 7) - 1])
    refiner, prepared = prepared_by("points", model, picture(40, 60))
    out = refiner.refine(prepared, scores)
    plain = F.interpolate(scores[None], size=out.shape[1:], mode="bilinear")[0]
    assert torch.allclose(out[1], plain[1])


def test_points_of_maps_are_each_others_negatives(model):
    scores = torch.zeros(2, 4, 6)
    scores[0, 1, 1], scores[1, 2, 4] = 1.0, 1.0
    scores[0] += 0.1
    refiner, prepared = prepared_by("points", model, picture(40, 60), points=1)
    masks = refiner.prompted(prepared, scores, [0, 1])
    both = torch.tensor([[[15.0, 15.0], [45.0, 25.0]]])
    first = prepared.predict(both, torch.tensor([[1, 0]])).best[0]
    second = prepared.predict(both.flip(1), torch.tensor([[1, 0]])).best[0]
    assert torch.allclose(masks[0], first, atol=1e-5)
    assert torch.allclose(masks[1], second, atol=1e-5)


@pytest.mark.parametrize("method", ["sclip", "cliper", "cliptrase"])
@pytest.mark.parametrize("prompt", ["vote", "points"])
def test_through_the_segmenter(method, prompt):
    segmenter = Segmenter.from_pretrained(
        tiny_clip(),
        method,
        refine=[("sam", {"prompt": prompt, "points_per_side": 2, "min_iou": -9.0})],
        networks={"sam": tiny_sam()},
    )
    image = F.interpolate(torch.randn(1, 3, 6, 10), size=(48, 80), mode="bilinear")
    rows = F.normalize(torch.randn(4, 48), dim=-1)
    encoding = segmenter.encode(image)
    first, second = segmenter(encoding, rows)[0], segmenter(encoding, rows)[0]
    assert first.labels.shape == (48, 80)
    assert (first.labels == second.labels).all()
    assert first.provenance["networks"]["sam"]["source"] == "SamModel"


@pytest.mark.parametrize("options", [{"points": 0}, {"points_per_side": 0}, {"prompt": "text"}])
def test_wrong_options(options):
    with pytest.raises(WordmaskError) as caught:
        create_refiner("sam", None, options)
    assert next(iter(options)) in str(caught.value)
    assert "\n" not in str(caught.value)
