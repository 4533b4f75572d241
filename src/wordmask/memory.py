"""How much memory is free, on a device and within the limit of a container."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def free_memory(device: torch.device | str) -> int | None:
    """Free memory of a device in bytes; None if unknown. That of "cpu" needs no torch."""
    kind = device if isinstance(device, str) else device.type
    if kind in ("cuda", "mps"):
        import torch

        if kind == "cuda":
            return torch.cuda.mem_get_info(device)[0]
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if kind != "cpu":
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
