"""Hashes of weights, which identify networks whatever their names."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn


def fingerprint(*models: nn.Module) -> str:
    """A hash of all weights: names, types, shapes and bytes."""
    digest = hashlib.blake2b(digest_size=12)
    for model in models:
        hash_weights(digest, model)
    return digest.hexdigest()


def hash_weights(digest: Any, model: nn.Module) -> None:
    """Update a digest of hashlib with all weights of a model."""
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
