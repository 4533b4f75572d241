"""The manifest of a folder of results: a Parquet file with a row for each picture."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wordmask.errors import WordmaskError
from wordmask.extras import need
from wordmask.files import shown, write_atomically
from wordmask.journal import Journal

ROWS = 10_000  # in memory at a time


def pyarrow(what: str) -> Any:
    """The library that reads and writes Parquet.

    Raises:
        WordmaskError: it is not installed.
    """
    need("pyarrow.parquet", "parquet", what)
    return need("pyarrow", "parquet", what)


def check_manifest(file: str | os.PathLike[str]) -> None:
    """Refuse a manifest that could not be written at the end.

    Raises:
        WordmaskError: its name does not end in .parquet, or pyarrow is not installed.
    """
    if Path(file).suffix.lower() != ".parquet":
        raise WordmaskError(f"got {shown(file)} for the manifest; give a name ending in .parquet")
    pyarrow("a Parquet manifest")


def write_manifest(journal: Journal, file: Path) -> None:
    """Write what the journal says of each picture, by name.

    Columns: name, source, size, modified (ns), hash, status ("done" or "failed"), error, settings
    (a hash), weights, seconds, and pixels (a list: label 0, then each class). The settings and the
    names of the classes are in the metadata of the file, as JSON.

    Raises:
        WordmaskError: it cannot be written.
    """
    arrow = pyarrow("a Parquet manifest")
    text, number = arrow.string(), arrow.int64()
    schema = arrow.schema(
        [
            arrow.field("name", text),
            arrow.field("source", text),
            arrow.field("size", number),
            arrow.field("modified", number),
            arrow.field("hash", text),
            arrow.field("status", text),
            arrow.field("error", text),
            arrow.field("settings", text),
            arrow.field("weights", text),
            arrow.field("seconds", arrow.float64()),
            arrow.field("pixels", arrow.list_(number)),
        ],
        metadata={
            "wordmask.settings": json.dumps(journal.settings),
            "wordmask.classes": json.dumps([names[0] for names in journal.settings["classes"]]),
        },
    )

    def write(stream: Any) -> None:
        with arrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
            rows = _rows(journal)
            while some := list(itertools.islice(rows, ROWS)):
                writer.write_table(arrow.Table.from_pylist(some, schema))

    write_atomically(file, write)


def _rows(journal: Journal) -> Iterator[dict[str, Any]]:
    for name in sorted(journal.keys()):
        entry = journal.read(name)
        yield {
            "name": _text(name),
            "source": _text(entry["picture"]),
            "status": "failed" if "error" in entry else "done",
            "settings": journal.digest,
            **{key: entry.get(key) for key in ("size", "modified", "hash", "weights")},
            **{key: entry.get(key) for key in ("error", "seconds", "pixels")},
        }


def _text(name: str) -> str:
    """A name as valid text, as which Parquet keeps it."""
    return os.fsencode(name).decode("utf-8", "replace")
