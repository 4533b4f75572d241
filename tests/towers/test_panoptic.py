"""Mask2Former and EoMT as a source of regions, with transformers' own pre- and post-processing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tiny import save_tiny_panoptic, tiny_panoptic, tiny_vfm
from wordmask import WordmaskError
from wordmask.towers.panoptic import PanopticTower, load_panoptic

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture(scope="module", params=["mask2former", "eomt"])
def saved(request, tmp_path_factory):
    """A folder in the hub's format, and what is in it."""
    folder = tmp_path_factory.mktemp(request.param)
    return folder, *save_tiny_panoptic(folder, request.param)


def test_segments_are_those_of_transformers(saved, capfd):
    folder, model, processor = saved
    image = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    image = image.repeat(8, 0).repeat(8, 1)
    given = processor(images=image, return_tensors="pt")
    given = {name: given[name] for name in ("pixel_values", "pixel_mask") if name in given}
    with torch.no_grad():
        out = model(**given)
    (theirs,) = processor.post_process_panoptic_segmentation(out, target_sizes=[(48, 80)])
    capfd.readouterr()
    ours = load_panoptic(folder, **CPU).segments(torch.from_numpy(image).permute(2, 0, 1) / 255)
    assert "fuse" not in capfd.readouterr().err
    ids = [one["id"] for one in theirs["segments_info"]]
    assert len(ids) > 1
    for number, one in enumerate(ids, start=1):
        assert torch.equal(ours == number, theirs["segmentation"] == one)
    assert int(ours.max()) == len(ids)


def test_a_picture_without_segments_is_all_unsegmented(saved):
    _, model, processor = saved
    before = model.class_predictor.bias.data.clone()
    model.class_predictor.bias.data[-1] += 1e4  # no object, whatever is seen
    try:
        assert not PanopticTower(model, processor).segments(torch.rand(3, 40, 56)).any()
    finally:
        model.class_predictor.bias.data.copy_(before)


def test_another_network_or_folder_is_refused(tmp_path):
    with pytest.raises(WordmaskError, match="give a Mask2Former or an EoMT"):
        load_panoptic(nn.Linear(2, 2), **CPU)
    tiny_vfm().save_pretrained(tmp_path / "vit")
    with pytest.raises(WordmaskError, match=r"'vit' model from .* Mask2Former"):
        load_panoptic(tmp_path / "vit", **CPU)
    tiny_panoptic("eomt").save_pretrained(tmp_path / "bare")
    with pytest.raises(WordmaskError, match=r"lacks preprocessor_config.json"):
        load_panoptic(tmp_path / "bare", **CPU)
