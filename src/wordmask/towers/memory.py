"""Check that a network fits into memory before it is loaded, and release memory after use."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

import torch

from wordmask.errors import WordmaskError
from wordmask.memory import free_memory


class TooLargeError(WordmaskError):
    """A network that does not fit into the free memory."""


def check_memory(name: str, needed: int, device: torch.device, advice: str) -> None:
    """Refuse a network that needs more memory than is free.

    Args:
        name: name of the network.
        needed: bytes of its weights and of one pass.
        device: the device it would be loaded on.
        advice: what would fit, or what to do.

    Raises:
        TooLargeError: it does not fit.
    """
    free = free_memory(device)
    if free is not None and needed > free:
        raise TooLargeError(
            f"{name} needs about {needed / 2**30:.1f} GiB on {device.type}, but "
            f"{max(free, 0) / 2**30:.1f} GiB are free; {advice}"
        )


def give_back_memory() -> None:
    """Release unused memory to the system: Python's, the C library's, and a GPU's."""
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)  # else glibc keeps the memory of freed weights
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
