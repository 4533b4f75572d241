"""Hashes of weights: what they cover, when they are computed again, and when they are kept."""

from __future__ import annotations

import os

import pytest
import torch

from replicas import build
from tiny import tiny_clip, tiny_tokenizer, tiny_vfm
from wordmask import Segmenter
from wordmask.towers import weights
from wordmask.towers.auxiliary import AuxiliaryModels
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


@pytest.fixture
def passes(monkeypatch):
    """The models whose weights were read for a hash."""
    read, seen = weights.hash_weights, []
    monkeypatch.setattr(weights, "hash_weights", lambda d, m: seen.append(m) or read(d, m))
    monkeypatch.setattr(weights, "SETTLED", 0.0)
    return seen


def test_the_hash_of_files_is_kept_until_they_change(tmp_path, passes, monkeypatch):
    monkeypatch.setenv("WORDMASK_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    build("facebook/dino-vits16", folder)
    path = folder / "model.safetensors"

    def described() -> str:
        networks = AuxiliaryModels({"vfm": str(folder)})
        networks.load(["vfm"])
        return networks.describe()["vfm"]["weights"]

    first = described()
    assert len(passes) == 1
    assert described() == first
    assert len(passes) == 1  # from the cache
    networks = AuxiliaryModels({"vfm": str(folder)}, dtype=torch.bfloat16)
    networks.load(["vfm"])
    assert networks.describe()["vfm"]["weights"] != first  # other numbers
    assert len(passes) == 2
    networks.vfm.model.layernorm.weight.data.mul_(2)
    networks.describe()
    assert len(passes) == 3  # not those of the files any more
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # size and time are those of before
    changed = described()
    assert changed != first
    assert len(passes) == 4
    (kept,) = {p for p in (tmp_path / "cache").glob("weights-*.txt") if p.read_text() == changed}
    kept.write_text("")  # a disk that was full
    assert described() == changed
    assert len(passes) == 5


def test_files_that_were_just_written_are_not_trusted(tmp_path, passes, monkeypatch):
    monkeypatch.setenv("WORDMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "SETTLED", 600.0)
    build("facebook/dino-vits16", tmp_path / "model")
    for _ in range(2):
        networks = AuxiliaryModels({"vfm": str(tmp_path / "model")})
        networks.load(["vfm"])
        networks.describe()
    assert len(passes) == 2
    assert not (tmp_path / "cache").exists()


def test_every_loader_keeps_the_hash(tmp_path, passes, monkeypatch):
    pytest.importorskip("diffusers", reason="the extra diffusion is not installed")
    monkeypatch.setenv("WORDMASK_CACHE", str(tmp_path / "cache"))
    names = {
        "classifier": "facebook/metaclip-b16-fullcc2.5b",
        "diffusion": "Manojb/stable-diffusion-2-1-base",
        "sam": "facebook/sam2.1-hiera-tiny",
        "vfm": "facebook/sam-vit-base",
    }
    for kind, name in names.items():
        build(name, tmp_path / kind)
    sources = {kind: str(tmp_path / kind) for kind in names}
    found = []
    for _ in range(2):
        networks = AuxiliaryModels(sources)
        networks.load(names)
        found.append(networks.describe())
    assert found[0] == found[1]
    assert len(passes) == 5  # UNet and VAE, and one each


def test_the_value_is_that_of_earlier_versions():
    """Runs and label folders record it."""
    networks = AuxiliaryModels({"vfm": "wordmask/tiny-vfm"})
    networks.load(["vfm"])
    assert networks.describe()["vfm"]["weights"] == "7deb54a402938675b4b29c9f"
