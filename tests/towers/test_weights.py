"""Hashes of weights: what they cover, when they are computed again, and when they are kept."""

from __future__ import annotations

import pytest
import torch

from tiny import tiny_clip, tiny_tokenizer, tiny_vfm
from wordmask import Segmenter
from wordmask.towers.text import TextTower
from wordmask.towers.weights import mark

CHANGES = {
    "in place": lambda p: p.mul_(1.5),
    "one number": lambda p: p.flatten()[:1].add_(1.0),
    "data": lambda p: p.data.mul_(1.5),
    "new data": lambda p: setattr(p, "data", p.data * 1.5),
    "numpy": lambda p: p.numpy().__imul__(1.5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_provenance_and_embeddings_follow_the_weights(change, tmp_path):
    """What was computed before the weights changed is not said, or used, of the new ones."""
    model, vfm = tiny_clip(layers=2), tiny_vfm()
    tokenizer = tiny_tokenizer()
    segmenter = Segmenter.from_pretrained(
        model, "proxyclip", networks={"vfm": vfm}, tokenizer=tokenizer, cache_dir=tmp_path
    )
    segmenter.networks.load(["vfm"])
    before, row = segmenter.provenance(), segmenter.text.encode(["cat"], ["{}"])
    assert segmenter.provenance() == before
    for one in (model, vfm):
        change(next(p for p in one.parameters() if p.ndim == 2).requires_grad_(False))
    change(model.text_projection.weight)
    after = segmenter.provenance()
    new = Segmenter.from_pretrained(model, networks={"vfm": vfm}, tokenizer=tokenizer)
    new.networks.load(["vfm"])
    assert after["weights"] == new.provenance()["weights"] != before["weights"]
    assert after["networks"] == new.provenance()["networks"] != before["networks"]
    alone = TextTower(model.text_model, model.text_projection, tokenizer, cache_dir=None)
    assert torch.equal(segmenter.text.encode(["cat"], ["{}"]), alone.encode(["cat"], ["{}"]))
    assert not torch.allclose(row, alone.encode(["cat"], ["{}"]))


@torch.no_grad()
def test_the_mark_stays_with_the_weights():
    model = tiny_clip(layers=2)
    before = mark(model)
    model(torch.zeros(1, 7, dtype=torch.long), torch.zeros(1, 3, 56, 56))
    assert mark(model.to("cpu").eval()) == before
    model.text_projection = torch.nn.Linear(64, 48, bias=False)
    assert mark(model) != before
