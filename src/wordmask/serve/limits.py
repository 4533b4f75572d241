"""What a request may ask for at most, and how it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MOST_SHOWN = 200  # characters of what was received


@dataclass(frozen=True)
class Limits:
    """Bounds of one request, and of all together.

    Attributes:
        bytes: of a picture as it is sent.
        pixels: of a picture.
        words: names of classes and of the background, synonyms counted.
        options: options of methods and refiners in one request.
        seconds: from the first byte of a request to its answer.
        requests: that are taken at once, being answered or waiting.
        seen: pixels that go through the network in one pass, after the method has resized them.
        passes: how many times `seen` all windows of a picture may have.
    """

    bytes: int = 20 * 2**20
    pixels: int = 25_000_000
    words: int = 1000
    options: int = 20
    seconds: float = 60.0
    requests: int = 64
    seen: int = 1_500_000
    passes: int = 20

    @property
    def body(self) -> int:
        """Bytes of a whole request: a picture in base64, and words."""
        return self.bytes * 4 // 3 + 2**20


class Problem(Exception):  # noqa: N818 (the word of RFC 9457)
    """A request that gets no result: an HTTP status, what was wrong, and what was received."""

    def __init__(self, status: int, message: str, received: Any = None, after: int | None = None):
        super().__init__(status, message, received, after)
        self.status, self.message, self.after = status, _sendable(message), after
        self.received: str | None = None
        if received is None:
            return
        text = received if isinstance(received, str) else repr(received)
        self.received = _sendable(
            text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."
        )


def _sendable(text: str) -> str:
    """Text that can be UTF-8: half a surrogate, which JSON may hold, is spelt out."""
    return text.encode(errors="backslashreplace").decode()
