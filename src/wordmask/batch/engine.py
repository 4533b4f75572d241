"""The local engine: pictures are read ahead of the network, and results written behind it."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from wordmask.batch.job import FolderJob, Outcome, Processed
from wordmask.batch.sources import Picture, digest
from wordmask.drawing import count_labels
from wordmask.errors import WordmaskError, is_out_of_memory
from wordmask.files import shown
from wordmask.formats import Item, label_kind, render
from wordmask.images import decode_image
from wordmask.segmentation import Segmentation

if TYPE_CHECKING:
    from wordmask.segmenter import Prepared, Segmenter

LOW_MEMORY_GROUP = 16  # pictures for which each network is loaded once with low_memory
MOST_WAITING = 2**30  # bytes of pictures that wait for others of their size

Each = TypeVar("Each")
Made = TypeVar("Made")


@dataclass
class Loaded:
    """A picture as it was read, or why it could not be.

    Attributes:
        number: index among the pictures left to do, from 0.
        picture: the picture.
        entry: its line in the journal.
        prepared: what the network takes; None if it could not be read.
        reason: why not; "" if it could.
    """

    number: int
    picture: Picture
    entry: dict[str, Any]
    prepared: Prepared | None
    reason: str = ""


class Mapper:
    """Makes results of pictures: `load` and `finish` in any thread, the call where the network is.

    Args:
        segmenter: a `Segmenter` or an `OnnxSegmenter`; its text is encoded, and its networks are
            loaded, at once.
        job: what it is done for.
    """

    def __init__(self, segmenter: Segmenter, job: FolderJob):
        if job.keep_encodings is not None:
            from wordmask.batch.encodings import keep_passes

            segmenter = keep_passes(segmenter, job.keep_encodings)
        if not segmenter.low_memory:  # else each network is loaded when its turn comes
            segmenter.load_networks()
        self.segmenter = segmenter
        self.words, self.formats, self.draft = job.words, job.formats, job.draft
        self.texts = segmenter.encode_text(job.words, job.background)
        self.weights = segmenter.weights()
        self.batch = LOW_MEMORY_GROUP if segmenter.low_memory else segmenter.at_once

    def load(self, number: int, picture: Picture) -> Loaded:
        """Read a picture."""
        entry: dict[str, Any] = {**picture.identity(), "weights": self.weights}
        try:
            content = picture.content()
            entry["hash"] = digest(content)
            image = picture.image
            if image is None and self.draft:
                prepared = self.segmenter.prepare_reduced(content, str(picture.path))
                return Loaded(number, picture, entry, prepared)
            if image is None:
                limit = self.segmenter.max_pixels
                image = decode_image(content, str(picture.path), max_pixels=limit)
            return Loaded(number, picture, entry, self.segmenter.prepare(image, picture.name))
        except (WordmaskError, MemoryError, RuntimeError) as error:
            return Loaded(number, picture, entry, None, _reason(error, picture))

    def __call__(self, batch: Sequence[Loaded]) -> list[Segmentation | None]:
        """Segment pictures; of those that fail, the `reason` is set and the result None."""
        start = time.perf_counter()
        good = [one for one in batch if one.prepared is not None]
        try:
            made = self._segment(good)
        except (WordmaskError, MemoryError, RuntimeError) as error:
            reasons = [_reason(error, one.picture) for one in good]
            if len(good) > 1:  # one of them, or too many at once
                return [self([one])[0] for one in batch]
            made = [None] * len(good)
            for one, reason in zip(good, reasons, strict=True):
                one.reason = reason
        results = iter(made)
        for one in good:
            one.entry["seconds"] = round((time.perf_counter() - start) / len(good), 4)
        return [None if one.prepared is None else next(results) for one in batch]

    def _segment(self, batch: Sequence[Loaded]) -> list[Segmentation | None]:
        prepared = [one.prepared for one in batch if one.prepared is not None]
        known = [one.picture.image_labels for one in batch]
        return list(self.segmenter.segment_prepared(prepared, self.texts, known))

    def finish(self, loaded: Loaded, result: Segmentation | None) -> Outcome:
        """The files of a result."""
        entry = dict(loaded.entry)
        if result is not None:
            entry["pixels"] = count_labels(result.labels, len(result.names)).tolist()
            try:
                source = shown(loaded.picture.path)
                kind = label_kind(self.formats)
                item = Item(loaded.picture.name, source, result, self.words.classes, kind)
                files = render(item, self.formats)
                return Outcome(loaded.picture, entry, files)
            except (WordmaskError, MemoryError) as error:
                loaded.reason = _reason(error, loaded.picture)
        return Outcome(loaded.picture, entry | {"error": loaded.reason}, reason=loaded.reason)


def run_here(job: FolderJob, segmenter: Segmenter, report: Callable[[Processed], object]) -> None:
    """Do what is left of a job in this process."""
    mapper = Mapper(segmenter, job)
    total = None if job.todo is None else len(job.todo)
    for loaded, result, outcome in run_mapper(mapper, job.records(), job.write):
        settle(job, outcome, loaded.number + 1, total, report, result)


def settle(
    job: FolderJob,
    outcome: Outcome,
    number: int,
    total: int | None,
    report: Callable[[Processed], object],
    result: Segmentation | None = None,
) -> None:
    """Count and report a picture that was written; one that failed may stop the run."""
    if outcome.reason and job.on_error == "stop":
        raise WordmaskError(outcome.reason)
    pixels = None if outcome.reason else np.array(outcome.entry["pixels"])
    result = None if outcome.reason else result
    one = Processed(number, total, outcome.picture, result, outcome.reason, pixels)
    job.summary.add(one)
    report(one)


def run_mapper(
    mapper: Mapper, pictures: Iterable[Picture], write: Callable[[Outcome], object]
) -> Iterator[tuple[Loaded, Segmentation | None, Outcome]]:
    """Make results of pictures; `write` is called in a thread before each is returned."""
    segmenter = mapper.segmenter
    threads = 1 if segmenter.device == "cpu" else min(os.cpu_count() or 2, 8)
    # of the pools' threads; the number is this thread's again at the end
    numeric = _torch_threads()
    written: deque[tuple[Loaded, Segmentation | None, Future[Outcome]]] = deque()

    def save(loaded: Loaded, result: Segmentation | None) -> Outcome:
        outcome = mapper.finish(loaded, result)
        write(outcome)
        return outcome

    def done(most: int) -> Iterator[tuple[Loaded, Segmentation | None, Outcome]]:
        while len(written) > most or (written and written[0][2].done()):
            loaded, result, future = written.popleft()
            yield loaded, result, future.result()

    readers = ThreadPoolExecutor(threads, "read", _torch_threads, (1,))
    writers = ThreadPoolExecutor(threads, "write", _torch_threads, (1,))
    try:
        ahead = Ahead(readers, mapper.load, pictures, mapper.batch + 2 * threads)
        for batch in in_batches(ahead, mapper.batch, segmenter.low_memory):
            for loaded, result in zip(batch, mapper(batch), strict=True):
                written.append((loaded, result, writers.submit(save, loaded, result)))
            yield from done(mapper.batch + 2 * threads)
        yield from done(0)
    finally:
        readers.shutdown(cancel_futures=True)
        writers.shutdown()
        _torch_threads(numeric)


def _torch_threads(count: int = 0) -> int:
    """The number of torch's threads before it is set, if it is; 0 where torch is not in use."""
    torch = sys.modules.get("torch")
    if torch is None:
        return 0
    before: int = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    return before


class Ahead(Generic[Each, Made]):
    """Iterates over `make(number, item)` in order, of which some are made ahead in threads."""

    def __init__(
        self,
        threads: ThreadPoolExecutor,
        make: Callable[[int, Each], Made],
        items: Iterable[Each],
        ahead: int,
    ):
        self.threads, self.make, self.items, self.ahead = threads, make, items, ahead

    def __iter__(self) -> Iterator[Made]:
        waiting: deque[Future[Made]] = deque()
        for number, item in enumerate(self.items):
            waiting.append(self.threads.submit(self.make, number, item))
            if len(waiting) >= self.ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def in_batches(pictures: Iterable[Loaded], size: int, mixed: bool) -> Iterator[list[Loaded]]:
    """Batches of pictures that have one size once resized, or that may be `mixed`.

    Pictures wait for others of their size while all that wait take less than `MOST_WAITING` bytes;
    then those go that have waited longest. Pictures that could not be read go at once.
    """
    buckets: dict[Any, list[Loaded]] = {}  # the one that has waited longest first
    waiting = 0
    for one in pictures:
        if one.prepared is None:
            yield [one]
            continue
        key = None if mixed else tuple(one.prepared.pixels.shape)
        buckets.setdefault(key, []).append(one)
        waiting += _bytes(one)
        while len(buckets.get(key, ())) >= size or waiting > MOST_WAITING:
            full = len(buckets.get(key, ())) >= size
            batch = buckets.pop(key if full else next(iter(buckets)))
            waiting -= sum(map(_bytes, batch))
            yield batch
    yield from buckets.values()


def _bytes(one: Loaded) -> int:
    assert one.prepared is not None
    return one.prepared.image.nbytes + one.prepared.pixels.nbytes


def _reason(error: Exception, picture: Picture) -> str:
    """Why a picture cannot be segmented, with its path; errors in the code itself are raised."""
    text = str(error)
    if not isinstance(error, WordmaskError):
        if not is_out_of_memory(error):
            raise error
        text = "there is not enough memory for it; try a smaller short_side"
    path = shown(picture.path)
    return text if path in text else f"cannot segment {path}: {text}"
