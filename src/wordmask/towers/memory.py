"""Check that a network fits into memory before it is loaded, and release memory after use."""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress
from pathlib import Path

import torch

from wordmask.errors import WordmaskError


class TooLargeError(WordmaskError):
    """A network that does not fit into the free memory."""


def free_memory(device: torch.device) -> int | None:
    """Free memory of a device in bytes; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if device.type != "cpu":
        return None
    limits = [_free_of_machine(), _free_of_group(Path("/sys/fs/cgroup"))]
    return min((x for x in limits if x is not None), default=None)


def _free_of_machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _free_of_group(folder: Path) -> int | None:
    """Free memory within the limit of a container (control groups, version 2), in bytes."""
    try:
        limit = int((folder / "memory.max").read_text())  # "max" if there is none
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return limit - used + int(stat.get("inactive_file", 0))  # cached files are evicted
    except (OSError, ValueError):
        return None


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
