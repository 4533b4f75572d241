"""The errors that wordmask raises on purpose: one line, what was received and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NO_TORCH = (
    'this needs torch, which is not installed: pip install "wordmask[torch]"; networks that were '
    'exported run without it: pip install "wordmask[onnx-runtime]", see docs/onnx.md'
)


class WordmaskError(ValueError):
    """Input that wordmask cannot use. The message is one line and names what was received."""


class ImageError(WordmaskError):
    """A picture that cannot be read or used."""


class TooLargeImage(ImageError):  # noqa: N818 (an ImageError)
    """A picture with more pixels than are allowed, or than fit into memory."""


class UnknownFormat(ImageError):  # noqa: N818 (an ImageError)
    """Content that is no picture, or one of a format that is not read."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch or a GPU had no memory left; torch has no one kind of error for it."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "memory" in str(error).lower()
    )


def unknown(kind: str, name: object, known: Iterable[str]) -> WordmaskError:
    """Build the error for a name that does not exist, with the nearest names that do."""
    choices = sorted(known)
    near = difflib.get_close_matches(str(name), choices, n=3, cutoff=0.5)
    listed = ", ".join(choices[:12]) + (", ..." if len(choices) > 12 else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from: {listed}"
    return WordmaskError(f"unknown {kind} {name!r}; {hint}")
