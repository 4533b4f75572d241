"""Segment folders of pictures into a folder of results; a later run resumes an earlier one."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wordmask.drawing import count_labels
from wordmask.errors import ImageError, WordmaskError, is_out_of_memory, unknown
from wordmask.files import shown
from wordmask.formats import (
    DEFAULT,
    Item,
    Results,
    check_formats,
    check_names,
    is_result,
    label_kind,
    split_formats,
    write_folder_formats,
)
from wordmask.journal import SETTINGS, Journal
from wordmask.user_code import is_file, source_digest
from wordmask.vocabulary import TEMPLATE_LISTS, Background, Vocabulary, as_list, templates

if TYPE_CHECKING:
    import torch

    from wordmask.encoding import Encoding
    from wordmask.methods import Method
    from wordmask.refiners import Refiner
    from wordmask.scoring import Scored
    from wordmask.segmentation import Segmentation
    from wordmask.segmenter import Segmenter
    from wordmask.text_queries import TextQueries

LOW_MEMORY_GROUP = 16  # pictures for which each network is loaded once with low_memory

Inputs = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
ImageLabels = str | os.PathLike[str] | Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A picture to be segmented.

    Attributes:
        path: its file.
        name: the path of its results below the folder of results, without suffix.
        image_labels: the classes known to be in it; None: nothing is known.
    """

    path: Path
    name: str
    image_labels: tuple[str, ...] | None = None

    def files(self, out: Path, formats: Sequence[str]) -> list[Path]:
        """The results of these formats."""
        return [one.path(out, self.name) for one in split_formats(formats)[0]]


@dataclass(frozen=True)
class Processed:
    """A picture that was segmented, or that could not be.

    Attributes:
        number, total: index among the pictures left to do, from 1, and their number.
        picture: the picture.
        result: its labels; None if it failed.
        reason: why it failed, on one line with its path; "" if it did not.
    """

    number: int
    total: int
    picture: Picture
    result: Segmentation | None
    reason: str = ""


@dataclass
class Summary:
    """Counts of a run over many pictures.

    Attributes:
        names: the classes (C).
        segmented: number of pictures segmented now.
        skipped: number of pictures skipped, since their results exist.
        failed: why pictures could not be segmented, by path.
        pixels: (C + 1,) pixels of each label over the pictures segmented, label 0 (none) first.
        occurrences: (C + 1,) in how many of the pictures segmented each label occurs.
    """

    names: tuple[str, ...]
    segmented: int = 0
    skipped: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    pixels: np.ndarray = field(init=False)
    occurrences: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(len(self.names) + 1, dtype=np.int64)
        self.occurrences = np.zeros_like(self.pixels)

    def add(self, result: Segmentation) -> None:
        """Count a result."""
        counts = count_labels(result.labels, len(self.names))
        self.pixels += counts
        self.occurrences += counts > 0
        self.segmented += 1


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
) -> Summary:
    """Segment many pictures by the same words into files, as `wordmask segment` does.

    A second call resumes the first wherever it was stopped: pictures with results made from the
    same file with the same settings are skipped. Results are named after the pictures and keep
    the subfolders of a folder that was given.

    Args:
        segmenter: with `low_memory`, pictures are taken in groups of 16.
        inputs: pictures: files, folders (with those below), patterns such as "photos/*.jpg".
        words: a Vocabulary, a list of names (or of lists of synonyms) or a dict.
        out: the folder of the results.
        background: a Background, "none", "auto" or a list of names.
        formats: among `wordmask.formats.FORMATS`, such as "labels" (NAME_labels.png, pixel values
            are labels), "overlay" (NAME_overlay.jpg), "json" (NAME.json: pixel shares and
            provenance) and "coco" (coco.json, of the whole folder, written at the end).
        overwrite: make existing results again, and replace those of other settings.
        on_error: "stop" at a picture that cannot be used, or "skip" it.
        image_labels: the only classes that get pixels, for each picture: a CSV file with a row for
            each picture (its name, then its classes), or a dict. A picture is found by its path,
            its file name or its name without suffix.
        progress: called after every picture.

    Raises:
        WordmaskError: an argument cannot be used, `out` holds results of other settings, a result
            cannot be written; a picture cannot be used and `on_error` is "stop".
    """
    settings = run_settings(
        segmenter.method,
        segmenter.variant,
        segmenter.refiners,
        segmenter.networks.sources,
        segmenter.source,
        segmenter.tower.dtype,
    )
    job = FolderJob(
        inputs,
        words,
        out,
        settings,
        background=background,
        formats=formats,
        overwrite=overwrite,
        on_error=on_error,
        image_labels=image_labels,
    )
    return job.run(segmenter, progress)


class FolderJob:
    """The work of `segment_folder`, checked before a model is loaded.

    Args:
        settings: what `run_settings` returned; all others as for `segment_folder`.

    Attributes:
        pictures: all pictures.
        todo: those without results.
        summary: the counts so far.
    """

    def __init__(
        self,
        inputs: Inputs,
        words: Any,
        out: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        background: Any = "auto",
        formats: Sequence[str] = DEFAULT,
        overwrite: bool = False,
        on_error: str = "stop",
        image_labels: ImageLabels | None = None,
    ):
        if on_error not in ("stop", "skip"):
            raise unknown("on_error", on_error, ("stop", "skip"))
        self.out = Path(out)
        self.words = Vocabulary.of(words)
        self.background = Background.of(background)
        self.background.check(self.words)
        self.formats = check_formats(formats)
        self.overwrite = overwrite
        self.on_error = on_error
        self.pictures = find_pictures(inputs, self.out)
        check_names(self.formats, (picture.name for picture in self.pictures))
        if image_labels is not None:
            self.pictures = add_image_labels(self.pictures, image_labels, self.words)
        claim = {
            "classes": self.words.classes,
            "background": self.background.describe(),
            **settings,
            "image_labels": image_labels is not None,
        }
        self.journal = Journal(self.out, claim, overwrite=overwrite)
        self.todo = [picture for picture in self.pictures if not self._is_done(picture)]
        self.summary = Summary(self.words.names, skipped=len(self.pictures) - len(self.todo))

    def check_first(self, max_pixels: int | None) -> None:
        """Read the first picture left to do, if a bad one would stop the run.

        Raises:
            ImageError: it cannot be read or has more than `max_pixels` pixels.
        """
        from wordmask.images import read_image

        if self.todo and self.on_error == "stop":
            read_image(self.todo[0].path, max_pixels=max_pixels)

    def run(
        self, segmenter: Segmenter, progress: Callable[[Processed], object] | None = None
    ) -> Summary:
        """Segment what is left to do. Raises as `segment_folder` does."""
        weights = segmenter.weights()
        # one name may stand for other weights: a file was replaced, or the model is in memory
        others = [key for key, entry in self.journal.items() if entry["weights"] != weights]
        if others and not self.overwrite:
            raise WordmaskError(
                f"{shown(self.out)} holds results of other weights of {segmenter.source}; choose "
                "another out folder, or overwrite"
            )
        if not self.todo:
            self.finish()
            return self.summary
        if not segmenter.low_memory:  # else each network is loaded when its turn comes
            segmenter.networks.load(used_networks(segmenter.method, segmenter.refiners))
        texts = segmenter.encode_text(self.words, self.background)
        at_once = LOW_MEMORY_GROUP if segmenter.low_memory else 1
        report = progress or (lambda _: None)
        for start in range(0, len(self.todo), at_once):
            entries, encodings = {}, {}
            for i in range(start, min(start + at_once, len(self.todo))):
                entries[i] = {**_entry(self.todo[i]), "weights": weights}
                encoding = self._attempt([i], report, segmenter.encode, self.todo[i].path)
                if encoding is not None:
                    encodings[i] = encoding
            known = [self.todo[i].image_labels for i in encodings]
            scored = self._attempt(encodings, report, _score, segmenter, encodings, texts, known)
            for i, one in zip(encodings, scored or (), strict=False):
                if not self.summary.segmented:
                    self.journal.drop([*others, *(picture.name for picture in self.todo)])
                result = self._attempt([i], report, self._finish, self.todo[i], one, entries[i])
                if result is not None:
                    self.summary.add(result)
                    report(Processed(i + 1, len(self.todo), self.todo[i], result))
        self.finish()
        return self.summary

    def finish(self) -> list[Path]:
        """Write the formats of the whole folder from the label files of what is done."""
        done = [one for one in self.pictures if one.name in self.journal]
        pairs = [(one.name, os.path.abspath(one.path)) for one in done]
        results = Results(self.out, self.words.classes, sorted(pairs))
        return write_folder_formats(self.out, self.formats, results)

    def _attempt(
        self,
        indices: Iterable[int],
        report: Callable[[Processed], object],
        work: Callable[..., Any],
        *arguments: Any,
    ) -> Any:
        """Return `work(*arguments)`; None if it fails and its pictures are skipped."""
        try:
            return work(*arguments)
        except (WordmaskError, MemoryError, RuntimeError) as error:
            for i in indices:
                picture = self.todo[i]
                reason = _reason(error, picture.path)
                if self.on_error == "stop":
                    raise WordmaskError(reason) from error
                self.summary.failed[picture.path] = reason
                report(Processed(i + 1, len(self.todo), picture, None, reason))

    def _finish(self, picture: Picture, scored: Scored, entry: dict[str, Any]) -> Segmentation:
        """Write the results of one picture, each file whole or not at all."""
        result = scored.segmentation()
        kind = label_kind(self.formats)
        item = Item(picture.name, shown(picture.path), result, self.words.classes, kind)
        for one in split_formats(self.formats)[0]:
            one.write(self.out, item)
        self.journal.append(picture.name, entry)
        return result

    def _is_done(self, picture: Picture) -> bool:
        """Whether all results of a picture exist and were made from its file as it is now.

        Raises:
            WordmaskError: results of this name exist and are of another picture, or of no run.
        """
        if self.overwrite:
            return False
        there = [file for file in picture.files(self.out, self.formats) if file.exists()]
        if there and not self.journal.claimed:
            raise WordmaskError(
                f"{shown(there[0])} exists and is not from wordmask; choose another out folder, or "
                "overwrite"
            )
        if picture.name not in self.journal:
            return False
        entry, now = self.journal.read(picture.name), _entry(picture)
        if entry["picture"] != now["picture"]:
            raise WordmaskError(
                f"{shown(self.out / picture.name)} was made from {shown(entry['picture'])} and now "
                f"{shown(picture.path)} has that name; choose another out folder, or overwrite"
            )
        return entry == {**now, "weights": entry["weights"]} and len(there) == len(
            split_formats(self.formats)[0]
        )


def _score(
    segmenter: Segmenter, encodings: dict[int, Encoding], texts: TextQueries, known: Sequence[Any]
) -> list[Scored]:
    given = [known] if any(one is not None for one in known) else []
    return list(segmenter.score_all(list(encodings.values()), texts, *given))


# -- settings -----------------------------------------------------------------------------------


def run_settings(
    method: Method,
    variant: str,
    refiners: Sequence[Refiner],
    networks: Mapping[str, Any],
    model: str,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """The settings that results depend on besides words and pictures, as plain values.

    Args:
        networks: the sources of auxiliary models by kind; unused kinds are left out.
        model: the id or folder of the model.
    """
    options = method.options()
    code = {f"the method {method.name}": source_digest(method)}
    code |= {f"the refiner {one.name}": source_digest(one) for one in refiners}
    if options["templates"] not in TEMPLATE_LISTS:  # a file may change
        options["templates"] = templates(options["templates"])
    return {
        "method": method.name,
        "variant": variant,
        "options": options,
        "refiners": [{"name": r.name} | r.options() for r in refiners],
        "networks": {kind: _source(networks[kind]) for kind in used_networks(method, refiners)},
        "model": _source(model),
        "dtype": str(dtype).removeprefix("torch."),
        **{f"code of {name}": digest for name, digest in code.items() if digest},
    }


def used_networks(method: Method, refiners: Sequence[Refiner]) -> list[str]:
    """The kinds of auxiliary models that a method and refiners use, sorted."""
    return sorted({kind for one in (method, *refiners) for kind in one.networks})


def _source(source: Any) -> str:
    """The source of weights; for a module in memory, their hash."""
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        if is_file(text):
            return f"{text} {source_digest(text)}"
        return os.path.abspath(text) if os.path.isdir(text) else text
    from wordmask.towers.weights import fingerprint

    return f"{type(source).__name__} {fingerprint(source)}"


# -- pictures -----------------------------------------------------------------------------------


def find_pictures(inputs: Inputs, out: Path) -> list[Picture]:
    """List the pictures that files, folders and patterns stand for, each with a unique name.

    A name is the path below the folder (or the fixed part of the pattern) that was given, without
    the suffix. If two pictures would get one name, all are named by their paths below the deepest
    folder that they share; pictures that differ in their suffix alone keep it. Results of an
    earlier run in `out` are left out.

    Raises:
        ImageError: an input stands for no picture, see `wordmask.images.find_images`.
    """
    from wordmask.images import find_images

    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    found: dict[str, tuple[Path, str]] = {}  # absolute path -> path as given, root
    for one in map(os.fsdecode, given):
        for path in find_images([one]):
            if os.path.lexists(one) and not os.path.isdir(one):
                found.setdefault(os.path.abspath(path), (path, os.path.dirname(one)))
            elif not _is_result(path, out):
                found.setdefault(os.path.abspath(path), (path, _root(one)))
    if not found:
        if not given:
            find_images([])
        raise ImageError(f"no picture found but the results of an earlier run in {shown(out)}")
    names = {at: os.path.relpath(at, os.path.abspath(root)) for at, (_, root) in found.items()}
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
    return [
        Picture(path, names[at] if stems[at].casefold() in twice else stems[at])
        for at, (path, _) in found.items()
    ]


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


def add_image_labels(
    pictures: Sequence[Picture], image_labels: ImageLabels, words: Vocabulary
) -> list[Picture]:
    """Return the pictures with their image-level labels, see `segment_folder`.

    Rows of other pictures are ignored, so that one file serves for parts of a data set.

    Raises:
        WordmaskError: a file that cannot be read, a picture without a row, a label that is not a
            class.
    """
    if isinstance(image_labels, Mapping):
        table, source = dict(image_labels), "image_labels"
    else:
        table, source = read_image_labels(Path(image_labels)), shown(image_labels)
    labelled = []
    for picture in pictures:
        path = picture.path
        key = next((x for x in (str(path), path.name, path.stem) if x in table), None)
        if key is None:
            raise WordmaskError(
                f"{source} has no row for {shown(path)}; a row begins with the name of its file"
            )
        if isinstance(table[key], str):
            raise WordmaskError(
                f"{source} has {table[key]!r} for {shown(path)}; write {as_list(str(table[key]))}"
            )
        for label in table[key]:
            if label not in words.names:
                raise unknown(f"label of {key}", label, words.names)
        labelled.append(Picture(path, picture.name, tuple(dict.fromkeys(table[key]))))
    return labelled


def read_image_labels(file: Path) -> dict[str, Sequence[str]]:
    """The rows of a CSV file by their first cell; empty cells are ignored."""
    import csv

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


def _entry(picture: Picture) -> dict[str, Any]:
    """What must be equal for a picture to count as unchanged."""
    try:
        status = picture.path.stat()
        size, modified = status.st_size, status.st_mtime_ns
    except OSError:
        size = modified = -1  # reading it reports the error
    labels = picture.image_labels
    return {
        "picture": os.path.abspath(picture.path),
        "size": size,
        "modified": modified,
        **({} if labels is None else {"image_labels": list(labels)}),
    }


def _reason(error: Exception, path: Path) -> str:
    """Why a picture cannot be segmented, with its path; errors in the code itself are raised."""
    text = str(error)
    if not isinstance(error, WordmaskError):
        if not is_out_of_memory(error):
            raise error
        text = "there is not enough memory for it; try a smaller short_side"
    return text if shown(path) in text else f"cannot segment {shown(path)}: {text}"
