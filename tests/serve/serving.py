"""What tests of the service share: pictures, and an application at an address."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
from PIL import Image

from waiting import LONG, soon

MODEL = "wordmask/tiny-clip"
WORDS = ["red circle", ["dog", "puppy"], "blue square"]


def picture(seed: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    """Coarse noise, (H, W, 3)."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    return small.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]


def png(pixels: np.ndarray) -> bytes:
    """A picture as the content of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Served:
    """An application at an address of its own, in a thread."""

    def __init__(self, app: Any):
        import uvicorn

        self.app = app
        config = uvicorn.Config(app, port=0, log_config=None, access_log=False)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        soon(lambda: self.server.started or not self.thread.is_alive())
        assert self.thread.is_alive()
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(LONG)
