"""The Ray engine: a job as a Ray Data pipeline, on this machine or a cluster.

The machine that starts the job reads the pictures and writes the results, so that the others need
neither's disk; a pool of actors, each with the model in memory, decodes, segments and encodes the
files. Where they run, how many there are, and what happens when one dies is left to Ray.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wordmask.batch.engine import Mapper, run_mapper, settle
from wordmask.batch.job import FolderJob, Outcome, Processed
from wordmask.batch.sources import Picture
from wordmask.errors import ImageError, WordmaskError
from wordmask.files import one_line
from wordmask.user_code import import_file, source_files

if TYPE_CHECKING:
    from wordmask.segmenter import Segmenter

ROWS = 16  # pictures that travel together; done again if their actor dies
TRIES = 3  # more than these and they are taken to be what kills it
READERS = 2  # processes that read pictures

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray's own report to its makers
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of how Ray Data itself uses it
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its future, without a warning


@contextlib.contextmanager
def joined(address: str | None) -> Iterator[Any]:
    """Ray as this process has started it, or else started here, or that of a cluster.

    Raises:
        WordmaskError: the cluster cannot be reached.
    """
    import ray

    if ray.is_initialized():
        yield ray
        return
    settings: dict[str, Any] = {} if address else {"include_dashboard": False}
    host, colon, port = (address or "").rpartition(":")
    try:
        if colon and port.isdecimal() and "/" not in host:  # Ray itself tries for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **settings)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(str(error))
        where = f"cannot join the Ray cluster at {address}" if address else "cannot start Ray"
        raise WordmaskError(f"{where}: {reason}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def run_on_ray(
    job: FolderJob,
    segmenter: Segmenter,
    report: Callable[[Processed], object],
    workers: int | None,
    address: str | None,
) -> None:
    """Do what is left of a job with Ray Data.

    Args:
        workers: actors; None: as many as Ray finds room for.
        address: of a cluster; None: this machine.

    Raises:
        WordmaskError: the cluster cannot be reached, or pictures killed every actor they met.
    """
    device = segmenter.tower.device
    if device.index:
        raise WordmaskError(f"got the device {device} with Ray, which deals out GPUs; give cuda")
    job.claim()
    todo = job.todo or []
    with joined(address) as ray:
        from ray.data import ActorPoolStrategy

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # that another way to say max_task_retries is to come
        warnings.filterwarnings("ignore", r"`ray_remote_args` is deprecated")
        rows = max(ROWS, 4 * segmenter.pipeline.at_once)
        rows = max(min(rows, len(todo) // (4 * (workers or 2))), 1)
        numbered = list(enumerate(todo))
        starts = range(0, len(todo), rows)
        data = ray.data.from_arrow([_table(numbered[i : i + rows]) for i in starts])
        data.context.enable_progress_bars = data.context.print_on_execution_start = False
        data = data.map_batches(
            _fetch,
            fn_args=(os.getcwd(),),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,
            concurrency=READERS,
            label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},  # this one
        )
        most = max(len(todo) // rows, 1)
        parts = [segmenter.method, *segmenter.refiners]
        data = data.map_batches(
            _Actor,
            fn_constructor_args=(
                os.getcwd(),
                source_files(parts),
                ray.put(segmenter),
                job.share(0),
            ),
            compute=ActorPoolStrategy(size=workers)
            if workers
            else ActorPoolStrategy(min_size=1, max_size=most),
            batch_size=None,
            batch_format="pyarrow",
            max_task_retries=TRIES,  # by default for ever
            **({"num_gpus": 1} if device.type == "cuda" else {"num_cpus": 1}),
        )
        try:
            for table in data.iter_batches(batch_size=None, batch_format="pyarrow"):
                for number, (entry, files, reason) in _rows(table):
                    outcome = Outcome(todo[number], entry, files, reason)
                    job.write(outcome)
                    settle(job, outcome, number + 1, len(todo), report)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, WordmaskError):
                raise error.cause from None
            raise
        except ray.exceptions.RayActorError:
            raise WordmaskError(
                f"a worker of Ray died {TRIES + 1} times at the same pictures (memory?); start "
                "again to resume, with fewer workers or a lower max_pixels"
            ) from None


def _table(rows: Sequence[tuple[int, Any]]) -> Any:
    """Numbers and plain values as an Arrow table."""
    import pyarrow

    values = pyarrow.array([pickle.dumps(one) for _, one in rows], pyarrow.large_binary())
    return pyarrow.table({"number": [number for number, _ in rows], "value": values})


def _rows(table: Any) -> Iterator[tuple[int, Any]]:
    for number, value in zip(table["number"], table["value"], strict=True):
        yield number.as_py(), pickle.loads(value.as_buffer())


# -- in Ray's processes ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fetched(Picture):
    """A picture with the content of its file, or why it could not be read."""

    known: dict[str, Any] = field(default_factory=dict)
    data: bytes = b""
    reason: str = ""

    def identity(self) -> dict[str, Any]:
        return self.known

    def content(self) -> bytes:
        if self.reason:
            raise ImageError(self.reason)
        return self.data


def _fetch(table: Any, folder: str) -> Any:
    """Read pictures, on the machine where they are."""
    os.chdir(folder)
    return _table([(number, _read(picture)) for number, picture in _rows(table)])


def _read(picture: Picture) -> Picture:
    known, data, reason = picture.identity(), b"", ""
    try:
        data = picture.content()
    except ImageError as error:
        reason = str(error)
    values = (picture.path, picture.name, picture.image_labels, picture.member, None)
    return _Fetched(*values, known, data, reason)


class _Actor:
    """Holds the model."""

    def __init__(self, folder: str, files: Sequence[str], segmenter: Any, job: FolderJob):
        import ray

        with contextlib.suppress(OSError):  # not on every machine
            os.chdir(folder)
        for file in files:  # of methods and refiners, which the segmenter is unpickled with
            import_file(file)
        self.mapper = Mapper(ray.get(segmenter), job)

    def __call__(self, table: Any) -> Any:
        numbers, pictures = zip(*_rows(table), strict=True)
        made = run_mapper(self.mapper, pictures, lambda _: None)
        return _table(
            [
                (numbers[loaded.number], (outcome.entry, outcome.files, outcome.reason))
                for loaded, _, outcome in made
            ]
        )
