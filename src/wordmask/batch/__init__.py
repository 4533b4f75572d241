"""Segment folders of any size into a folder of results; a later run resumes an earlier one.

What is to be done (`FolderJob.records`) is separate from how it is done: an engine reads each
picture and makes its files (`engine.Mapper`), and gives them to the job (`FolderJob.write`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from wordmask.batch.job import FolderJob, Outcome, Processed, Summary
from wordmask.batch.settings import run_settings, settings_of, used_networks
from wordmask.batch.sources import (
    ImageLabels,
    Inputs,
    Picture,
    find_pictures,
    read_image_labels,
)
from wordmask.errors import WordmaskError, unknown
from wordmask.extras import need
from wordmask.formats import DEFAULT

if TYPE_CHECKING:
    from wordmask.segmenter import Segmenter

ENGINES = ("local", "ray")

__all__ = [
    "ENGINES",
    "FolderJob",
    "Outcome",
    "Picture",
    "Processed",
    "Summary",
    "check_engine",
    "find_pictures",
    "read_image_labels",
    "run_job",
    "run_settings",
    "segment_folder",
    "settings_of",
    "used_networks",
]


def segment_folder(
    segmenter: Segmenter,
    inputs: Inputs,
    words: Any,
    out: str | os.PathLike[str],
    *,
    background: Any = "auto",
    formats: Sequence[str] = DEFAULT,
    overwrite: bool = False,
    on_error: str = "stop",
    image_labels: ImageLabels | None = None,
    progress: Callable[[Processed], object] | None = None,
    workers: int | None = None,
    shard: str | None = None,
    keep_encodings: str | os.PathLike[str] | None = None,
    manifest: str | os.PathLike[str] | None = None,
    draft: bool = False,
    engine: str = "local",
    address: str | None = None,
) -> Summary:
    """Segment many pictures by the same words into files, as `wordmask segment` does.

    A second call resumes the first wherever it was stopped: pictures with results made from the
    same picture with the same settings are skipped, also when it lies elsewhere by now. Results
    are named after the pictures and keep the subfolders of a folder that was given.

    Args:
        segmenter: with `low_memory`, pictures are taken in groups of 16.
        inputs: pictures: files, folders (with those below), patterns such as "photos/*.jpg", lists
            ("list.txt"), manifests (".csv", ".parquet"), tar shards ("a-{000..010}.tar"); or an
            iterable, also one without end in sight, of paths, arrays (H, W, 3) uint8, PIL images
            and pairs (name, one of these).
        words: a Vocabulary, a list of names (or of lists of synonyms) or a dict.
        out: the folder of the results.
        background: a Background, "none", "auto", "negatives" or a list of names.
        formats: among `wordmask.formats.FORMATS`, such as "labels" (NAME_labels.png, pixel values
            are labels), "overlay" (NAME_overlay.jpg), "json" (NAME.json: pixel shares and
            provenance) and "coco" (coco.json, of the whole folder, written at the end).
        overwrite: make existing results again, and replace those of other settings.
        on_error: "stop" at a picture that cannot be used, or "skip" it.
        image_labels: the only classes that get pixels, for each picture: a CSV file with a row for
            each picture (its name, then its classes), or a dict. A picture is found by its path,
            its file name or its name without suffix.
        progress: called after every picture.
        workers: processes that share the pictures; of this machine they share the weights in
            memory. None: one, and with Ray as many as there is room for.
        shard: "2/8" does the second of eight parts, here or elsewhere; parts may share `out`.
        keep_encodings: a folder in which passes of the network are kept (float16), so that other
            words, formats, or methods that share the pass need none. Results of kept passes are
            rounded; they do not mix with others in one folder of results.
        manifest: a Parquet file that says of every picture in `out` what was done.
        draft: decode a JPEG at 1/2, 1/4 or 1/8 of its size where that is twice the network's at
            least: faster, with less memory, and nearly the same labels. Formats and refiners that
            need the picture are refused.
        engine: "local" or "ray": the same on Ray Data; `progress` gets pictures in any order.
        address: of a Ray cluster, "auto" for the one that this machine is in; None: Ray as this
            process has started it, or else on this machine alone.

    Raises:
        WordmaskError: an argument cannot be used, `out` holds results of other settings, a result
            cannot be written; a picture cannot be used and `on_error` is "stop".
    """
    job = FolderJob(
        inputs,
        words,
        out,
        settings_of(segmenter),
        background=background,
        formats=formats,
        overwrite=overwrite,
        on_error=on_error,
        image_labels=image_labels,
        shard=shard,
        keep_encodings=keep_encodings,
        manifest=manifest,
        draft=draft,
    )
    return run_job(job, segmenter, progress, workers, engine, address)


def check_engine(engine: str, address: str | None = None) -> None:
    """Refuse an engine that is none, or that is not installed."""
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if address is not None and engine != "ray":
        raise WordmaskError(f"got the address {address} of a cluster, and the engine {engine}")
    if engine == "ray":
        need("ray.data", "ray", "the engine ray")


def run_job(
    job: FolderJob,
    segmenter: Segmenter,
    progress: Callable[[Processed], object] | None = None,
    workers: int | None = None,
    engine: str = "local",
    address: str | None = None,
) -> Summary:
    """Segment what is left to do of a job. Arguments and errors as for `segment_folder`."""
    from wordmask.batch.engine import run_here
    from wordmask.batch.manifest import write_manifest

    check_engine(engine, address)
    if workers is not None and workers < 1:
        raise WordmaskError(f"got {workers} workers; give at least 1")
    alone = engine == "local" and (workers or 1) == 1
    if hasattr(segmenter, "settings") and not (alone and job.keep_encodings is None):
        raise WordmaskError(
            "an exported network runs in one process on all cores, and keeps no encodings; leave "
            "--workers, --engine and --keep-encodings out"
        )
    if not alone and job.todo is None:
        what = "the engine ray" if engine == "ray" else f"{workers} workers"
        raise WordmaskError(f"got {what} and pictures that come one by one; give a list of paths")
    start = time.monotonic()
    job.check(segmenter.weights(), segmenter.source)
    report = progress or (lambda _: None)
    try:
        if engine == "ray" and job.todo:
            from wordmask.batch.on_ray import run_on_ray

            run_on_ray(job, segmenter, report, workers, address)
        elif not alone and job.todo:
            from wordmask.batch.workers import run_workers

            run_workers(job, segmenter, report, min(workers or 1, len(job.todo)))
        elif job.todo != []:
            run_here(job, segmenter, report)
        job.finish()
    finally:
        job.release()
        job.summary.seconds = time.monotonic() - start
        if job.manifest is not None:
            job.journal.refresh()
            write_manifest(job.journal, job.manifest)
    return job.summary
