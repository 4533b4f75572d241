"""Finding files below a root: tolerant of where the root is, exact about what is missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from wordmask.datasets.base import Listing, Sample
from wordmask.datasets.reading import Target
from wordmask.errors import WordmaskError

Load = Callable[[], Target]


def locate(root: Path, places: Sequence[str], what: str, *more_roots: Path) -> Path:
    """The first of several paths below a root (or further roots) that is a folder.

    Args:
        root: a folder.
        places: paths below it, in the order in which they are tried; "." is the root itself.
        what: what should be there, for the error.
        more_roots: tried after the root.

    Raises:
        WordmaskError: none of them exists; the message lists all that were tried.
    """
    tried = list(dict.fromkeys(base / place for base in (root, *more_roots) for place in places))
    for path in tried:
        if path.is_dir():
            return path
    raise WordmaskError(f"no {what}; tried the folders {', '.join(map(str, tried))}")


def files(folder: Path, suffixes: Sequence[str], ending: str = "") -> dict[str, Path]:
    """The files of a folder by their ids, sorted: the id is the name without `ending` and suffix.

    Hidden files are skipped. The folder is read once and no file is opened.

    Raises:
        WordmaskError: the folder cannot be read, or two files have one id.
    """
    found: dict[str, Path] = {}
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        raise WordmaskError(f"cannot read the folder {folder}: {error.strerror}") from None
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in suffixes and stem.endswith(ending) and not name.startswith("."):
            one = stem.removesuffix(ending)
            if one in found:
                raise WordmaskError(f"{folder} holds both {found[one].name} and {name}; keep one")
            found[one] = folder / name
    return found


def some_files(folder: Path, suffixes: Sequence[str], ending: str = "") -> dict[str, Path]:
    """As `files`, but raise an error if there are none."""
    found = files(folder, suffixes, ending)
    if not found:
        raise WordmaskError(
            nothing_in(folder, " or ".join(f"*{ending}{suffix}" for suffix in suffixes))
        )
    return found


def nothing_in(folder: Path, wanted: str) -> str:
    """The problem of a folder that has none of the wanted files."""
    others = os.listdir(folder)
    if not others:
        return f"the folder {folder} is empty; files {wanted} are expected in it"
    return f"the folder {folder} holds no {wanted}, but {min(others)}" + ", ..." * (len(others) > 1)


def read_split(path: Path) -> list[str]:
    """The ids of a split file, one per line.

    Raises:
        WordmaskError: the file is missing, empty or not text, a line is not one id, or an id is
            listed twice.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise WordmaskError(f"there is no split file {path}") from None
    except UnicodeDecodeError:
        raise WordmaskError(f"the split file {path} is not text") from None
    except OSError as error:
        raise WordmaskError(f"cannot read the split file {path}: {error.strerror}") from None
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        if len(line.split()) > 1:
            raise WordmaskError(
                f"line {number} of the split file {path} is {line[:80]!r}; one id per line is "
                "expected: this is another kind of list"
            )
        if line in found:
            raise WordmaskError(f"the split file {path} lists {line} in lines {found[line]} and "
                                f"{number}")  # fmt: skip
        found[line] = number
    if not found:
        raise WordmaskError(f"the split file {path} is empty")
    return list(found)


def pair(
    pictures: Mapping[str, Path],
    masks: Mapping[str, Path],
    load: Callable[[Path], Load],
    ids: Iterable[str] | None = None,
    split: Path | None = None,
) -> Listing:
    """Pair pictures and masks.

    Args:
        pictures, masks: files by id.
        load: takes the path of a mask and returns the function that reads its labels.
        ids: of the split, in its order; None takes all that exist, sorted.
        split: the split file, for messages.
    """
    wanted = sorted({*pictures, *masks}) if ids is None else list(ids)
    whole = [one for one in wanted if one in pictures and one in masks]
    problems = []
    for kind, those in (("picture", pictures), ("mask", masks)):
        problems += missing(kind, [one for one in wanted if one not in those], len(wanted), split)
    samples = (Sample(one, pictures[one], load(masks[one])) for one in whole)
    return Listing(tuple(samples), tuple(problems))


def missing(kind: str, ids: Sequence[str], of: int, split: Path | None) -> list[str]:
    """The problem of ids without a picture or mask; empty if there are none."""
    if not ids:
        return []
    listed = f" listed in {split}" if split else ""
    more = ", ..." if len(ids) > 3 else ""
    problem = f"no {kind} for {len(ids):,} of {of:,} ids{listed}: {', '.join(ids[:3])}{more}"
    if split and 2 * len(ids) > of:
        problem += "; is this the split of another data set, or the copy an excerpt?"
    return [problem]
