"""Where the results of `wordmask segment` go, and what is known to be done already."""

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordmask.cli.common import make_folder, one_line, shown
from wordmask.errors import ImageError, WordmaskError
from wordmask.files import write_atomically

if TYPE_CHECKING:
    from wordmask.segmentation import Segmentation
    from wordmask.vocabulary import Vocabulary

SUFFIXES = {
    "labels": "_labels.png",
    "overlay": "_overlay.jpg",
    "scores": "_scores.npz",
    "json": ".json",
}
SETTINGS = "wordmask.json"
DONE = "wordmask_done.jsonl"
LONGEST_JPEG = 65_000


@dataclass(frozen=True)
class Picture:
    """A picture, what its results are called, with folders, without suffix, and its labels.

    labels: the words known to be in it (`--labels`); None: nothing is known.
    """

    path: Path
    name: str
    labels: tuple[str, ...] | None = None

    def files(self, out: Path, formats: Sequence[str]) -> list[Path]:
        """The results of these formats."""
        return [out / (self.name + SUFFIXES[one]) for one in formats]


# -- names --------------------------------------------------------------------------------------


def name_pictures(inputs: Sequence[str], out: Path) -> list[Picture]:
    """List the pictures that files, folders and patterns stand for, each with a name of its own.

    A name is the path below the folder (or the fixed part of the pattern) that was given, without
    the suffix. Where two pictures come to one name, all are named by their paths below the deepest
    folder that they share; pictures that differ in their suffix alone keep it. Results of an
    earlier run in `out` are no pictures.

    Raises:
        ImageError: an input stands for nothing, as `wordmask.images.find_images` says it.
    """
    from wordmask.images import find_images

    found: dict[str, tuple[Path, str]] = {}  # absolute path -> path as given, root
    for given in inputs:
        for path in find_images([given]):
            if os.path.lexists(given) and not os.path.isdir(given):
                found.setdefault(os.path.abspath(path), (path, os.path.dirname(given)))
            elif not _is_result(path, out):
                found.setdefault(os.path.abspath(path), (path, _root(given)))
    if not found:
        raise ImageError(f"no picture found beside the results of an earlier run in {shown(out)}")
    names = {at: os.path.relpath(at, os.path.abspath(root)) for at, (_, root) in found.items()}
    if _repeated(list(names.values())):
        try:
            shared = os.path.commonpath([os.path.dirname(at) for at in names])
        except ValueError:
            raise WordmaskError(
                "got pictures of one name on several drives; segment them one drive at a time"
            ) from None
        names = {at: os.path.relpath(at, shared) for at in names}
    stems = {at: os.path.splitext(name)[0] for at, name in names.items()}
    twice = _repeated([*stems.values(), Path(SETTINGS).stem])
    return [
        Picture(path, names[at] if stems[at].casefold() in twice else stems[at])
        for at, (path, _) in found.items()
    ]


def _repeated(names: list[str]) -> set[str]:
    """Names that come more than once where a file system does not tell case apart."""
    return {name for name, count in Counter(x.casefold() for x in names).items() if count > 1}


def _root(given: str) -> str:
    """A folder itself; of a pattern, the folders before its first wildcard."""
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
    if not path.name.endswith((SUFFIXES["labels"], SUFFIXES["overlay"])):
        return False
    return (
        Path(os.path.abspath(out)) in Path(os.path.abspath(path)).parents
        and (out / SETTINGS).is_file()
    )


# -- what is done -------------------------------------------------------------------------------


class Record:
    """What a folder of results says about itself.

    `wordmask.json` holds the settings that all its results were made with, `wordmask_done.jsonl` a
    line for each finished picture. Nothing is written before `begin`.

    Args:
        out: the folder.
        settings: all that results depend on, as plain values.
        overwrite: take results for done neither when they are there nor when they differ.

    Raises:
        WordmaskError: the folder holds results of other settings, or is none.
    """

    def __init__(self, out: Path, settings: dict[str, Any], overwrite: bool):
        self.out = out
        self.settings = json.loads(json.dumps(settings))
        self.overwrite = overwrite
        self.done: dict[str, dict[str, Any]] = {}  # name -> picture, size, modified
        if out.exists() and not out.is_dir():
            raise WordmaskError(f"got --out {shown(out)}, which is a file; give a folder")
        self.known = (out / SETTINGS).is_file()
        earlier = self._read_settings() if self.known else None
        if earlier == self.settings:
            self.done = self._read_done()
        elif earlier is not None and not overwrite:
            raise WordmaskError(
                f"{shown(out)} holds results of {_difference(earlier, self.settings)}; choose "
                "another --out, or --overwrite"
            )

    def is_done(self, picture: Picture, formats: Sequence[str]) -> bool:
        """Whether all results of a picture as it is now are there.

        Raises:
            WordmaskError: the results of this name belong to another picture, or to nobody.
        """
        if self.overwrite:
            return False
        there = [file for file in picture.files(self.out, formats) if file.exists()]
        if there and not self.known:
            raise WordmaskError(
                f"{shown(there[0])} exists and is not from wordmask; choose another --out, or "
                "--overwrite"
            )
        entry = self.done.get(picture.name)
        if entry is None:
            return False
        if entry["picture"] != os.path.abspath(picture.path):
            raise WordmaskError(
                f"{shown(self.out / picture.name)} was made from {shown(entry['picture'])} and now "
                f"{shown(picture.path)} comes to that name; choose another --out, or --overwrite"
            )
        return entry == _entry(picture) and len(there) == len(formats)

    def begin(self, pictures: Sequence[Picture]) -> None:
        """Make the folder and write down the settings; `pictures` are no longer done."""
        make_folder(self.out)
        for picture in pictures:
            self.done.pop(picture.name, None)
        lines = "".join(json.dumps(entry) + "\n" for entry in self.done.values()).encode()
        write_atomically(self.out / DONE, lambda file: file.write(lines))
        text = json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.out / SETTINGS, lambda file: file.write(text.encode()))

    def finish(self, picture: Picture) -> None:
        """Note that all results of a picture are there."""
        try:
            with open(self.out / DONE, "a", encoding="ascii") as file:
                file.write(json.dumps(_entry(picture)) + "\n")
        except OSError as error:
            raise WordmaskError(
                f"cannot write {shown(self.out / DONE)}: {error.strerror}"
            ) from None

    def _read_settings(self) -> dict[str, Any] | None:
        """The settings of earlier results, None where they are to be overwritten unread."""
        try:
            settings = json.loads((self.out / SETTINGS).read_text(encoding="utf-8"))
            if isinstance(settings, dict):
                return settings
        except (OSError, ValueError):
            pass
        if self.overwrite:
            return None
        raise WordmaskError(
            f"cannot read the settings in {shown(self.out / SETTINGS)}; choose another --out, or "
            "--overwrite"
        )

    def _read_done(self) -> dict[str, dict[str, Any]]:
        try:
            lines = (self.out / DONE).read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return {}
        done = {}
        for line in lines:
            try:
                entry = json.loads(line)
                done[entry["name"]] = entry
            except (ValueError, TypeError, KeyError):  # a line that was cut short
                continue
        return done


def _entry(picture: Picture) -> dict[str, Any]:
    """What tells that a picture is the same as before."""
    try:
        status = picture.path.stat()
        size, modified = status.st_size, status.st_mtime_ns
    except OSError:
        size = modified = -1  # reading it says what is wrong
    return {
        "name": picture.name,
        "picture": os.path.abspath(picture.path),
        "size": size,
        "modified": modified,
        **({} if picture.labels is None else {"labels": list(picture.labels)}),
    }


def _difference(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """The first setting that differs: `other classes (cat; dog instead of cat)`."""
    for name in [*now, *earlier]:
        a, b = earlier.get(name), now.get(name)
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            name, a, b = next(
                (key, a.get(key), b.get(key)) for key in [*b, *a] if a.get(key) != b.get(key)
            )
        return f"another setting of {name} ({_short(a)} there, {_short(b)} now)"
    return "other settings"


def _short(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, list) for one in value):
        value = "; ".join(", ".join(map(str, one)) for one in value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return one_line(text, 60)


# -- results ------------------------------------------------------------------------------------


def write_results(
    result: Segmentation, picture: Picture, words: Vocabulary, out: Path, formats: Sequence[str]
) -> None:
    """Write the results of one picture, each file whole or not at all."""
    for one, file in zip(formats, picture.files(out, formats), strict=True):
        make_folder(file.parent)
        if one == "labels":
            result.save(file)
        elif one == "overlay":
            _write_overlay(result, file)
        elif one == "scores":
            _write_scores(result, file)
        else:
            _write_summary(result, file, picture, words)


def _write_overlay(result: Segmentation, file: Path) -> None:
    image = result.overlay()
    image.thumbnail((LONGEST_JPEG, LONGEST_JPEG))
    write_atomically(file, lambda f: image.save(f, "JPEG", quality=92, subsampling=0))


def _write_scores(result: Segmentation, file: Path) -> None:
    """Arrays `scores` (C, h, w) and `names` (C,)."""
    import numpy as np

    arrays = {"scores": np.asarray(result.scores), "names": np.array(result.names)}
    write_atomically(file, lambda f: np.savez_compressed(f, **arrays))  # type: ignore[arg-type]


def _write_summary(result: Segmentation, file: Path, picture: Picture, words: Vocabulary) -> None:
    summary = {
        "picture": shown(picture.path),
        "words": words.classes,
        **json.loads(result.to_json()),
    }
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    write_atomically(file, lambda f: f.write(text.encode()))
