"""What all tests share: golden vectors, real data where it is at hand, one thread."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPModel

from places import GOLDEN, SHARED
from wordmask import bars
from wordmask.datasets import BENCHMARKS
from wordmask.methods import METHODS
from wordmask.refiners import REFINERS

torch.set_num_threads(1)  # the networks here are tiny; threads only make a busy machine slower


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Text embeddings of tests never reach the user's cache."""
    monkeypatch.setenv("WORDMASK_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch):
    """What a test registers is gone after it."""
    for one in (METHODS, REFINERS, BENCHMARKS):
        monkeypatch.setattr(one, "_known", dict(one._known))


@pytest.fixture(autouse=True)
def _no_lines_of_progress(monkeypatch):
    """What is slow says so; on a slow machine that would be anything."""
    monkeypatch.setattr(bars, "LINE_EVERY", 1e6)


@pytest.fixture(scope="session")
def golden_clip() -> CLIPModel:
    return CLIPModel.from_pretrained(GOLDEN / "clip_model").eval()


@pytest.fixture(scope="session")
def golden_inputs() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "inputs.safetensors")


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"real photographs and weights are not here ({SHARED.name}/ is absent)")
    return SHARED
