"""Time and peak memory of one call, for the other benchmarks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path


def resident() -> int:
    """Bytes of the resident set (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call, and MiB that the resident set rose above its level before."""
    peak, done, start = 0, threading.Event(), resident()

    def sample() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.0005)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        begin = time.perf_counter()
        call()
        seconds = time.perf_counter() - begin
    finally:  # else the thread outlives an error, and keeps the process
        done.set()
        sampler.join()
    return seconds, (peak - start) / 2**20
