"""ResCLIP: labels and lines of the first pass, hosts, any depth, and pictures of a few patches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tiny import tiny_clip
from wordmask import Segmenter, WordmaskError
from wordmask.methods import create_method
from wordmask.text_queries import TextQueries

TEXTS = F.normalize(torch.randn(4, 48, generator=torch.Generator().manual_seed(1)), dim=-1)
SINGLE = TextQueries.of(TEXTS[:, None])


def method(**options):
    return create_method("resclip", None, options)[0]


def run(image, texts=SINGLE, layers=4, variant=None, **options):
    segmenter = Segmenter.from_pretrained(tiny_clip(layers=layers), "resclip", variant, options)
    encoding = segmenter.encode(image)
    return segmenter.method.second_pass(segmenter.towers, encoding, texts), encoding


def picture(height: int, width: int) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("variant", ["repaired", "official", "sclip", "clearclip"])
@pytest.mark.parametrize("size", [(8, 8), (8, 24), (16, 16), (13, 21)])
def test_pictures_of_a_few_patches(variant, size):
    """One patch, one line of patches, fewer patches than the smoothing's kernel, a remainder."""
    features, encoding = run(picture(*size), variant=variant)
    assert features.shape == (1, 48, size[0] // 8, size[1] // 8)
    assert torch.isfinite(features).all()
    if size == (8, 8):  # a patch that feeds back to itself sees itself more than the class token
        assert not torch.equal(features, encoding.features)


@pytest.mark.parametrize(
    ("depth", "blocks"), [(1, [1]), (2, [2]), (8, [4, 5, 6]), (12, [6, 7, 8, 9])]
)
def test_middle_blocks_of_any_depth(depth, blocks):
    assert sorted(method().need(depth).attention_sum) == blocks
    assert len(method().need(24).attention_sum) == 8


def test_a_block_that_is_not_there():
    with pytest.raises(WordmaskError, match="got block 7 for a CLIP with 4 blocks"):
        run(picture(16, 16), blocks=(7,))


def test_networks_of_one_and_two_blocks_run():
    for layers in (1, 2):
        assert torch.isfinite(run(picture(32, 24), layers=layers)[0]).all()


def test_the_line_between_neighbours_is_looked_at():
    """0 1 0 in a long row: the release looks at the beginning of the short line alone."""
    labels = torch.tensor([[0, 1, 0, 0, 0, 0, 0, 0, 0]])
    apart = torch.arange(9.0)[:, None].sub(torch.arange(9.0)).abs()
    broken = method()._broken(labels, apart, apart.max())
    assert broken[0, 2]
    assert not broken[2, 3]
    released = method(lines="released")._broken(labels, apart, apart.max())
    assert not released[0, 2]
    assert released[0, 8]


def test_names_of_a_class_are_one_label_and_the_release_takes_each():
    """With a class's second name equal to another class, the pixels of both are one region."""
    image, joined = picture(32, 32), TextQueries.of([TEXTS[:2], TEXTS[2:3]])
    alone = TextQueries.of([TEXTS[:1], TEXTS[1:2], TEXTS[2:3]])
    options = {"label_threshold": 0.0}
    ours = [run(image, texts, **options)[0] for texts in (joined, alone)]
    assert not torch.equal(*ours)
    theirs = [run(image, t, variant="official", **options)[0] for t in (joined, alone)]
    assert torch.equal(*theirs)


def test_unsure_pixels_are_a_label_of_their_own_and_the_release_gives_them_the_first():
    """No pixel reaches 1: all are unsure, of one label, and in the release of text 0."""
    image = picture(32, 32)
    for options, label in (({}, 4), ({"labels": "texts"}, 0)):
        chosen = method(label_threshold=1.0, logit_scale=1.0, **options)
        _, encoding = run(image)
        pixels = encoding.state.pixels[0]
        labels = chosen.patch_labels(encoding.features[0], pixels, SINGLE)
        assert (labels == label).all()


def test_the_released_first_text_is_a_background_name():
    """In the released lists the background is class 0; here its names come last."""
    _, encoding = run(picture(32, 32))
    texts = TextQueries.of(TEXTS[:3, None], TEXTS[3:])
    chosen, pixels = method(labels="texts"), encoding.state.pixels[0]
    theirs = chosen.first_probabilities(encoding.features[0], pixels, texts)
    ours = method().first_probabilities(encoding.features[0], pixels, texts)
    assert torch.allclose(theirs, ours[[3, 0, 1, 2]], atol=1e-6)


def test_without_sfr_words_change_nothing():
    features, encoding = run(picture(32, 32), sfr_scale=1.0, sfr_share=0.0)
    assert torch.equal(features, encoding.features)
