"""Waiting for what another thread or process does, however slow the machine; ports that are free.

No test may take it that something has happened, or has not yet, because some time has passed.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

LONG = 240.0  # seconds; only a test that fails waits so long


def soon(holds: Callable[[], object], seconds: float = LONG, why: Callable[[], str] = str) -> None:
    """Wait until it holds.

    why: what to say if it never does.
    """
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"does not hold after {seconds:.0f} s {why()}"
        time.sleep(0.02)


def free_port() -> int:
    """A port of this machine for a server that starts later.

    It is below those that the system gives to connections, which would take it meanwhile.
    """
    draw = random.SystemRandom()  # other processes draw others
    while True:
        port = draw.randrange(20_000, 32_000)
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
