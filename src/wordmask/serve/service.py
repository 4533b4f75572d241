"""What the routes of the service ask for: pictures and words in, results out.

Routers of annotation tools use the same `Service`, see `app.service_of`.
"""

from __future__ import annotations

import asyncio
import contextvars
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from wordmask.errors import ImageError, TooLargeImage, UnknownFormat
from wordmask.segmentation import Segmentation
from wordmask.serve.engine import AS_STARTED, Answer, Ask, Encoded, Engine, How, Objects
from wordmask.serve.limits import Limits, Problem
from wordmask.serve.schemas import check_words
from wordmask.serve.store import Store
from wordmask.vocabulary import Background, Vocabulary

DEADLINE: contextvars.ContextVar[float] = contextvars.ContextVar("deadline", default=float("inf"))


class Backend(Protocol):
    """Where asks are answered."""

    @property
    def store(self) -> Store:
        """The encodings that are kept."""
        ...

    async def submit(self, ask: Ask) -> Answer:
        """The answer; a `Problem` is returned and not raised."""
        ...

    def ready(self) -> bool:
        """Whether it answers now."""
        ...


class Here:
    """The backend without workers: the networks are in this process, and take one ask at a time."""

    def __init__(self, engine: Engine):
        self.engine, self.store = engine, engine.store
        self._turns = ThreadPoolExecutor(1)

    async def submit(self, ask: Ask) -> Answer:
        """See `Backend`."""
        loop = asyncio.get_running_loop()
        return (await loop.run_in_executor(self._turns, self.engine.run, [ask]))[0]

    def ready(self) -> bool:
        """See `Backend`."""
        return True


class Service:
    """Pictures and words in, results out; made once, used by all routes.

    Every method raises `Problem`, or `WordmaskError` for words that cannot be used; the application
    turns both into the answer that all errors have.
    """

    def __init__(self, backend: Backend, limits: Limits):
        self.backend, self.limits = backend, limits

    async def segment(
        self,
        picture: bytes,
        words: Vocabulary | Sequence[str | Sequence[str]],
        background: Background | str | Sequence[str] = "auto",
        how: How = AS_STARTED,
    ) -> Segmentation:
        """The labels of a picture, given as the content of its file.

        words, background: as for `Segmenter.__call__`.
        """
        given, rule = self._words(words, background)
        image = await self._decode(picture)
        return await self._ask(Ask(how, image, given, rule))

    async def objects(
        self,
        picture: bytes,
        words: Vocabulary | Sequence[str | Sequence[str]],
        background: Background | str | Sequence[str] = "auto",
        how: How = AS_STARTED,
    ) -> Objects:
        """As `segment`, with the connected parts of each word, as annotation tools take them."""
        given, rule = self._words(words, background)
        image = await self._decode(picture)
        return await self._ask(Ask(how, image, given, rule, objects=True))

    async def encode(self, picture: bytes, owner: str, how: How = AS_STARTED) -> Encoded:
        """Encode a picture and keep it for its owner; the handle is for `score`."""
        image = await self._decode(picture)
        return await self._ask(Ask(how, image, handle=secrets.token_urlsafe(12), owner=owner))

    async def score(
        self,
        handle: str,
        owner: str,
        words: Vocabulary | Sequence[str | Sequence[str]],
        background: Background | str | Sequence[str] = "auto",
    ) -> Segmentation:
        """The labels of a picture that was encoded before, for its owner alone."""
        given, rule = self._words(words, background)
        return await self._ask(Ask(words=given, background=rule, handle=handle, owner=owner))

    def _words(self, words: Any, background: Any) -> tuple[Vocabulary, Background]:
        given, rule = Vocabulary.of(words), Background.of(background)
        check_words(given, rule, self.limits)
        return given, rule

    async def _decode(self, picture: bytes) -> np.ndarray:
        """Pixels, before the picture meets those of others."""
        if not picture:
            raise Problem(422, "image: the picture is empty", "0 bytes")
        if len(picture) > self.limits.bytes:
            size = f"{len(picture):,} bytes"
            raise Problem(413, f"image: at most {self.limits.bytes:,} bytes are taken", size)
        return await asyncio.to_thread(decode, picture, self.limits)

    async def _ask(self, ask: Ask) -> Any:
        deadline = min(DEADLINE.get(), time.time() + self.limits.seconds)
        ask = Ask(**{**vars(ask), "deadline": deadline})
        try:
            answer = await asyncio.wait_for(
                self.backend.submit(ask), max(deadline - time.time(), 0)
            )
        except asyncio.TimeoutError:
            raise too_late(self.limits) from None
        if isinstance(answer, Problem):
            raise answer
        return answer


def decode(picture: bytes, limits: Limits) -> np.ndarray:
    """The pixels of a picture's file, uint8 (H, W, 3)."""
    from wordmask.images import decode_image

    try:
        return decode_image(picture, "the picture", max_pixels=limits.pixels)
    except TooLargeImage as error:
        raise Problem(
            413, f"image: at most {limits.pixels:,} pixels are taken", str(error)
        ) from None
    except UnknownFormat as error:
        start = repr(picture[:16])
        raise Problem(415, f"image: {error}", f"{len(picture):,} bytes: {start}") from None
    except ImageError as error:
        raise Problem(422, f"image: {error}", f"{len(picture):,} bytes") from None


def too_late(limits: Limits) -> Problem:
    """The answer to a request that took too long."""
    return Problem(504, f"there was no answer within {limits.seconds:g} seconds; try again later")
