"""Where pictures come from: files, folders, patterns, lists, manifests, shards and Python."""

from __future__ import annotations

import csv
import glob
import hashlib
import itertools
import os
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from wordmask.errors import ImageError, WordmaskError, unknown
from wordmask.files import shown
from wordmask.formats import is_result, suffixes
from wordmask.journal import SETTINGS
from wordmask.vocabulary import Vocabulary, as_list

Inputs = str | os.PathLike[str] | Iterable[Any]
ImageLabels = str | os.PathLike[str] | Mapping[str, Sequence[str]]

PATHS = ("path", "file", "file_name", "filename", "image", "image_path", "picture")
"""The columns of a manifest that may hold the paths, the first that is there."""

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to be segmented.

    Attributes:
        path: its file; in a shard `shard.tar/member.jpg`; the name of one from memory.
        name: the path of its results below the folder of results, without suffix.
        image_labels: the classes known to be in it; None: nothing is known.
        member: offset and size in bytes of its file in the shard `path.parent`.
        image: the picture itself, if it came from memory.
    """

    path: Path
    name: str
    image_labels: tuple[str, ...] | None = None
    member: tuple[Path, int, int] | None = None
    image: Any = None

    def files(self, out: Path, formats: Sequence[str]) -> list[Path]:
        """The results of these formats."""
        return [out / (self.name + one) for one in suffixes(formats)]

    def identity(self) -> dict[str, Any]:
        """What is the same while a picture is unchanged, but for its content."""
        size = modified = -1  # of a file that cannot be read, which is said when it is
        if self.image is not None:
            size, modified = len(self.content()), 0
        else:
            try:
                status = os.stat(self.member[0] if self.member else self.path)
                size, modified = status.st_size, status.st_mtime_ns
            except OSError:
                pass
            if self.member:
                size = self.member[2]
        labels = self.image_labels
        return {
            "picture": shown(self.path) if self.image is not None else os.path.abspath(self.path),
            "size": size,
            "modified": modified,
            **({} if labels is None else {"image_labels": list(labels)}),
        }

    def content(self) -> bytes:
        """The content of its file; the pixels of a picture from memory.

        Raises:
            ImageError: it cannot be read.
        """
        from wordmask.images import read_bytes, read_image

        if self.image is not None:
            array = read_image(self.image, max_pixels=None)
            return f"{array.shape} ".encode() + array.tobytes()
        if self.member is None:
            return read_bytes(self.path)
        shard, offset, size = self.member
        try:
            with open(shard, "rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise ImageError(f"cannot read {shown(self.path)}: {error.strerror}") from None
        if len(content) < size:
            raise ImageError(f"cannot read {shown(self.path)}: the shard ends within it")
        return content


def digest(content: bytes) -> str:
    """The hash by which a picture is known wherever it lies."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


# -- from what was given to pictures --------------------------------------------------------------


def read_sources(inputs: Inputs, out: Path) -> list[Picture] | Iterator[Picture]:
    """The pictures that inputs stand for; an iterator if they come from Python one by one.

    Raises:
        WordmaskError: an input cannot be read, or stands for no picture.
    """
    if isinstance(inputs, (str, os.PathLike)):
        return find_pictures([inputs], out)
    if isinstance(inputs, (list, tuple)) and all(isinstance(x, (str, os.PathLike)) for x in inputs):
        return find_pictures(inputs, out)
    if isinstance(inputs, (np.ndarray, PIL.Image.Image)):
        return _stream([inputs])
    if not isinstance(inputs, Iterable):
        raise WordmaskError(
            f"got {type(inputs).__name__} as pictures; give paths, or an iterable of paths, "
            "arrays, PIL images or pairs (name, picture)"
        )
    return _stream(inputs)


def _stream(items: Iterable[Any]) -> Iterator[Picture]:
    """Pictures of a generator: paths, arrays, PIL images, or pairs (name, one of these)."""
    used: set[str] = set()
    for number, item in enumerate(items):
        name, image = item if isinstance(item, tuple) and len(item) == 2 else (None, item)
        is_path = isinstance(image, (str, os.PathLike))
        if not is_path and not isinstance(image, (np.ndarray, PIL.Image.Image)):
            raise WordmaskError(
                f"got {type(image).__name__} as picture {number}; give a path, a PIL image, an "
                "array (H, W, 3), or a pair (name, picture)"
            )
        if name is None:
            name = Path(image).stem if is_path else f"{number:08d}"
        name = _check_name(name, f"picture {number}")
        if name.casefold() in used:
            raise WordmaskError(f"two pictures are named {name!r}; give pairs (name, picture)")
        used.add(name.casefold())
        yield Picture(Path(image), name) if is_path else Picture(Path(name), name, image=image)


def _check_name(name: Any, whose: str) -> str:
    """A name as a path below the folder of results."""
    text = os.path.normpath(name).replace(os.sep, "/") if isinstance(name, str) and name else ""
    parts = text.split("/")
    if not text or os.path.isabs(text) or ".." in parts or text == "." or "\0" in text:
        raise WordmaskError(
            f"got {name!r:.80} as the name of {whose}; give a relative path without suffix"
        )
    return text


@dataclass(slots=True)
class _Found:
    """A picture without a name: `root` is the folder below which its path is its name."""

    path: Path
    root: str
    name: str | None = None
    labels: tuple[str, ...] | None = None
    member: tuple[Path, int, int] | None = None


def find_pictures(inputs: Inputs, out: Path) -> list[Picture]:
    """List the pictures that inputs on a command line stand for, each with a unique name.

    An input is a file, a folder, a pattern, a list (`list.txt`, or `@` before a file of any
    name; `-` reads stdin), a manifest (`.csv`, `.parquet`) or tar shards (`a-{000..010}.tar`).

    A name is the path below the folder (or the fixed part of the pattern) that was given, without
    the suffix. If two pictures would get one name, all are named by their paths below the deepest
    folder that they share; pictures that differ in their suffix alone keep it. Names in a manifest
    are taken as they are. Results of an earlier run in `out` are left out.

    Raises:
        WordmaskError: an input cannot be read, or stands for no picture.
    """
    from wordmask.images import find_images

    given: Any = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    found: dict[str, _Found] = {}  # by absolute path
    for one in map(os.fsdecode, given):
        for at, picture in _expand(one, out):
            found.setdefault(at, picture)
    if not found:
        find_images([]) if not given else None
        raise ImageError(f"no picture found but the results of an earlier run in {shown(out)}")
    named = {at: one.name for at, one in found.items() if one.name is not None}
    free = {at: one for at, one in found.items() if one.name is None}
    names = {at: os.path.relpath(at, os.path.abspath(one.root)) for at, one in free.items()}
    if _repeated(names.values()):
        try:
            shared = os.path.commonpath([os.path.dirname(at) for at in names])
        except ValueError:
            raise WordmaskError(
                "got pictures of one name on several drives; segment them one drive at a time"
            ) from None
        names = {at: os.path.relpath(at, shared) for at in names}
    stems = {at: os.path.splitext(name)[0] for at, name in names.items()}
    twice = _repeated([*stems.values(), Path(SETTINGS).stem])
    names = {at: names[at] if x.casefold() in twice else x for at, x in stems.items()} | named
    if named and (again := _repeated(names.values())):
        raise WordmaskError(f"two pictures are named {min(again)!r}; give each its own name")
    return [Picture(one.path, names[at], one.labels, one.member) for at, one in found.items()]


def _expand(given: str, out: Path) -> Iterator[tuple[str, _Found]]:
    """The pictures of one input by absolute path."""
    from wordmask.images import find_images

    if given == "-":
        yield from _listed(_read_stdin(), "stdin", "")
        return
    if given.startswith("@") and not os.path.lexists(given):
        given, is_list = given[1:], True
    else:
        is_list = given.lower().endswith(".txt") and os.path.isfile(given)
    suffix = os.path.splitext(given)[1].lower()
    if suffix in (".csv", ".parquet") and (is_list or not glob.has_magic(given)):
        yield from _manifest(given, suffix)
    elif is_list:
        yield from _listed(_read_text(given), shown(given), os.path.dirname(given))
    elif suffix == ".tar":
        for shard in _shards(given):
            yield from _members(shard)
    elif given.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")):
        raise WordmaskError(f"{shown(given)} is compressed; unpack it to .tar, which is read")
    else:
        alone = os.path.lexists(given) and not os.path.isdir(given)
        root = os.path.dirname(given) if alone else _root(given)
        for path in find_images([given]):
            if alone or not _is_result(path, out):
                yield os.path.abspath(path), _Found(path, root)


def _repeated(names: Iterable[str]) -> set[str]:
    """Names that occur more than once on a file system that ignores case."""
    return {name for name, count in Counter(x.casefold() for x in names).items() if count > 1}


def _root(given: str) -> str:
    """A folder itself; for a pattern, the folders before its first wildcard."""
    if os.path.isdir(given):
        return given
    parts: list[str] = []
    for part in Path(given).parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return str(Path(*parts))


def _is_result(path: Path, out: Path) -> bool:
    """Whether a picture was written into `out` by an earlier run."""
    return (
        Path(os.path.abspath(out)) in Path(os.path.abspath(path)).parents
        and is_result(Path(os.path.relpath(path, out)).as_posix())
        and (out / SETTINGS).is_file()
    )


# -- lists and manifests --------------------------------------------------------------------------


def _read_stdin() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise WordmaskError(
            "got - for the list of pictures, and stdin is a terminal; pipe paths into it: "
            "find photos -name '*.jpg' | wordmask segment - ..."
        )
    return sys.stdin.buffer.read()


def _read_text(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise WordmaskError(f"cannot read the list {shown(file)}: {error.strerror}") from None


def _listed(content: bytes, source: str, folder: str) -> Iterator[tuple[str, _Found]]:
    """The paths of a list, one a line, or between zero bytes as `find -print0` writes them."""
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    paths = [os.fsdecode(line) for line in lines if line.strip()]
    if not paths:
        raise WordmaskError(f"{source} names no picture; write one path a line")
    yield from _located((path, None, None) for path in _placed(paths, folder))


def _placed(paths: Sequence[str], folder: str) -> Iterator[str]:
    """Paths as they are if the first is there from the working folder, else below `folder`."""
    below = folder and not os.path.exists(paths[0])
    return iter(os.path.join(folder, path) for path in paths) if below else iter(paths)


def _located(
    rows: Iterable[tuple[str, str | None, tuple[str, ...] | None]],
) -> Iterator[tuple[str, _Found]]:
    for path, name, labels in rows:
        yield os.path.abspath(path), _Found(Path(path), os.path.dirname(path), name, labels)


def _manifest(file: str, suffix: str) -> Iterator[tuple[str, _Found]]:
    """The rows of a CSV or Parquet file: a column of paths; `name` and `labels` if it has them.

    `labels` are image-level labels: a list, or in CSV a text with `;` between them.
    """
    table = _read_csv(file) if suffix == ".csv" else _read_parquet(file)
    column = next((name for name in PATHS if name in table), None)
    if column is None:
        raise WordmaskError(
            f"{shown(file)} has no column of paths (it has {', '.join(table) or 'none'}); name "
            f"one {', '.join(PATHS[:-1])} or {PATHS[-1]}"
        )
    paths = table[column]
    if not paths:
        raise WordmaskError(f"{shown(file)} names no picture; it has no rows")
    for number, path in enumerate(paths, start=1):
        if not isinstance(path, str) or not path:
            raise WordmaskError(
                f"row {number} of {shown(file)} has no path in the column {column}; give text"
            )
    names = [
        _check_name(name, f"row {number} of {shown(file)}") if name else None
        for number, name in enumerate(table.get("name", ()), start=1)
    ]
    labels = [_labels(one) for one in table.get("labels", ())]
    yield from _located(itertools.zip_longest(_placed(paths, os.path.dirname(file)), names, labels))


def _labels(cell: Any) -> tuple[str, ...] | None:
    if cell is None:
        return None
    parts = cell.split(";") if isinstance(cell, str) else cell
    return tuple(dict.fromkeys(x for part in parts if (x := str(part).strip())))


def _read_csv(file: str) -> dict[str, list[Any]]:
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise WordmaskError(f"cannot read the manifest {shown(file)}: {reason}") from None
    head = [cell.strip() for cell in rows[0]] if rows else []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(head):
            raise WordmaskError(
                f"line {number} of {shown(file)} has {len(row)} cells, its head {len(head)}"
            )
    return {name: [row[i].strip() for row in rows[1:]] for i, name in enumerate(head)}


def _read_parquet(file: str) -> dict[str, list[Any]]:
    from wordmask.batch.manifest import pyarrow

    arrow = pyarrow("a Parquet manifest")
    try:
        with arrow.parquet.ParquetFile(file) as source:
            there = list(source.schema_arrow.names)
            used = [name for name in (*PATHS, "name", "labels") if name in there]
            table = source.read(columns=used)
    except (OSError, arrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise WordmaskError(f"cannot read the manifest {shown(file)}: {reason}") from None
    columns = {name: table[name].to_pylist() for name in used}
    return columns if used else {name: [] for name in there}


# -- shards ---------------------------------------------------------------------------------------


def _shards(given: str) -> list[str]:
    """The tar files of a path, a pattern, or ranges such as `shards-{000..010}.tar`."""
    paths = [given]
    while match := _RANGE.search(paths[0]):
        first, last = match.groups()
        if int(last) < int(first):
            raise WordmaskError(f"got {shown(given)}; the range {match[0]} is empty")
        numbers = [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
        paths = [_RANGE.sub(number, path, count=1) for path in paths for number in numbers]
    if len(paths) == 1 and glob.has_magic(given) and not os.path.exists(given):
        paths = sorted(glob.glob(given, recursive=True))
        if not paths:
            raise WordmaskError(f"no shard matches the pattern {shown(given)}")
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WordmaskError(f"there is no shard {shown(missing[0])}{more}")
    return paths


def _members(shard: str) -> Iterator[tuple[str, _Found]]:
    """The pictures in a tar file, found by their suffix; only its heads are read.

    They are named by the shard and their path in it: `shards-000/0001`.
    """
    from wordmask.images import IMAGE_SUFFIXES

    root = os.path.dirname(shard)
    folder = os.path.abspath(os.path.splitext(shard)[0])
    count = 0
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # of which it keeps every one
                at = os.path.normpath(member.name)
                if not member.isfile() or os.path.splitext(at)[1].lower() not in IMAGE_SUFFIXES:
                    continue
                if os.path.isabs(at) or at.startswith("..") or os.path.basename(at).startswith("."):
                    continue
                where = Path(shard), member.offset_data, member.size
                count += 1
                yield os.path.join(folder, at), _Found(Path(shard, at), root, member=where)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise WordmaskError(f"cannot read the shard {shown(shard)}: {error}") from None
    if not count:
        raise WordmaskError(f"the shard {shown(shard)} holds no picture")


# -- image-level labels ---------------------------------------------------------------------------


def add_image_labels(
    pictures: Iterable[Picture], image_labels: ImageLabels | None, words: Vocabulary
) -> Iterator[Picture]:
    """The pictures with their image-level labels, see `segment_folder`.

    Rows of other pictures are ignored, so that one file serves for parts of a data set. Without
    `image_labels`, those of a manifest are checked.

    Raises:
        WordmaskError: a file that cannot be read, a picture without a row, a label that is not a
            class.
    """
    table: dict[str, Sequence[str]] = {}
    source = "image_labels"
    if isinstance(image_labels, Mapping):
        table = dict(image_labels)
    elif image_labels is not None:
        table, source = read_image_labels(Path(image_labels)), shown(image_labels)
    for picture in pictures:
        path, labels, key = picture.path, picture.image_labels, str(picture.path)
        if image_labels is not None:
            key = next((x for x in (key, path.name, path.stem) if x in table), "")
            if not key:
                raise WordmaskError(
                    f"{source} has no row for {shown(path)}; a row begins with the name of its file"
                )
            if isinstance(table[key], str):
                raise WordmaskError(
                    f"{source} has {table[key]!r} for {shown(path)}; write "
                    f"{as_list(str(table[key]))}"
                )
            labels = tuple(dict.fromkeys(table[key]))
        for label in labels or ():
            if label not in words.names:
                raise unknown(f"label of {key}", label, words.names)
        yield replace(picture, image_labels=labels)


def read_image_labels(file: Path) -> dict[str, Sequence[str]]:
    """The rows of a CSV file by their first cell; empty cells are ignored."""
    if file.exists() and not file.is_file():  # a folder; a pipe or a device might never end
        raise WordmaskError(
            f"cannot read the image labels in {shown(file)}: it is not a file; give a CSV file"
        )
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise WordmaskError(f"cannot read the image labels in {shown(file)}: {error}") from None
    table: dict[str, Sequence[str]] = {}
    for name, *labels in rows:
        if name in table:
            raise WordmaskError(f"{shown(file)} has two rows for {name!r}; leave one")
        table[name] = [label for label in labels if label]
    return table
