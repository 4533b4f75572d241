"""Files that results are written as, each format under a name.

There are two kinds. A `PictureFormat` makes a file (or a folder of files) of one picture; a
`FolderFormat` makes one file or folder of all pictures, from their label files, with one picture in
memory at a time. What writes results needs this:

    chosen = check_formats(["json", "coco"])  # ("labels", "json", "coco"); also checks the extras
    check_names(chosen, names)                # no picture's results lie where a format's do
    item = Item(name, picture, result, words, label_kind(chosen))
    render(item, chosen)                      # {"_labels.png": bytes, "_masks/1_cat.png": bytes}
    suffixes(chosen)                          # of the files that exist when a picture is done
    write_folder_formats(out, chosen, Results(out, words, [(name, picture), ...]))  # at the end

One format alone: `FORMATS["cutouts"].files(item)` are bytes, `.write(out, item)` writes them.
`is_result(path)` says whether a picture found below the folder of results is one of its results.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from wordmask.errors import WordmaskError, unknown
from wordmask.files import make_folder
from wordmask.formats import coco, label_studio, pictures, voc, yolo
from wordmask.formats.base import FolderFormat as FolderFormat
from wordmask.formats.base import Format as Format
from wordmask.formats.base import Item as Item
from wordmask.formats.base import PictureFormat as PictureFormat
from wordmask.formats.pictures import renamed as renamed
from wordmask.formats.results import LABELS
from wordmask.formats.results import Results as Results
from wordmask.formats.results import read_results as read_results
from wordmask.formats.results import results_of as results_of

FORMATS: dict[str, PictureFormat | FolderFormat] = {
    one.name: one
    for one in (
        *pictures.FORMATS,
        *coco.FORMATS,
        *yolo.FORMATS,
        *voc.FORMATS,
        *label_studio.FORMATS,
    )
}
DEFAULT = ("labels", "overlay", "json")


def check_formats(names: Iterable[str]) -> tuple[str, ...]:
    """Formats of results, each once, in the order of `FORMATS`.

    Formats of a whole folder are made from label files, so that "labels" is added to them.

    Raises:
        WordmaskError: an unknown one, or none, or a missing package.
    """
    given = [names] if isinstance(names, str) else list(names)
    for name in given:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
        FORMATS[name].check()
    if not given:
        raise WordmaskError(f"got no format; choose from: {', '.join(FORMATS)}")
    if split_formats(given)[1] and not label_kind(given):
        given.append("labels")
    return tuple(name for name in FORMATS if name in given)


def split_formats(
    names: Iterable[str],
) -> tuple[tuple[PictureFormat, ...], tuple[FolderFormat, ...]]:
    """The formats of one picture, and those of the whole folder."""
    chosen = [FORMATS[name] for name in names]
    return (
        tuple(one for one in chosen if isinstance(one, PictureFormat)),
        tuple(one for one in chosen if isinstance(one, FolderFormat)),
    )


def render(item: Item, formats: Iterable[str]) -> dict[str, bytes]:
    """The files of one picture by what is added to its name, in formats of one picture."""
    files: dict[str, bytes] = {}
    for one in split_formats(formats)[0]:
        files |= one.files(item)
    return files


def suffixes(formats: Iterable[str]) -> tuple[str, ...]:
    """What is added to the name of a picture for the files that exist when it is done."""
    return tuple(one.done for one in split_formats(formats)[0])


def label_kind(names: Iterable[str]) -> str:
    """The format of the label file that is written, for `Item.labels`; "" if there is none."""
    return next((kind for kind in LABELS if kind in names), "")


def check_names(formats: Iterable[str], names: Iterable[str]) -> None:
    """Refuse pictures whose results would lie where a format of the whole folder writes.

    Raises:
        WordmaskError: it says what to do.
    """
    whole = {one.suffix.rstrip("/").removesuffix(".json"): one for one in split_formats(formats)[1]}
    for name in names if whole else ():
        if (first := PurePosixPath(name).parts[0]) in whole:
            raise WordmaskError(
                f"the results of {name!r} would lie where the format {whole[first].name} writes; "
                "make that format with wordmask convert, in another folder"
            )


def write_folder_formats(out: Path, formats: Iterable[str], results: Results) -> list[Path]:
    """Write the formats of the whole folder among `formats`, each whole or not at all.

    Args:
        out: where they are written.
        results: `Results`; gone through once for each format.

    Returns:
        The files and folders that were written.
    """
    made = []
    for one in split_formats(formats)[1]:
        make_folder(out)
        one.make(one.path(out), results.names, results)
        made.append(one.path(out))
    return made


def convert(
    folder: str | Path, formats: Iterable[str], out: str | Path | None = None
) -> list[Path]:
    """Make formats from the label files of `wordmask segment`, without any network.

    Args:
        folder: the folder of results.
        formats: any but "json" and "scores", which the labels do not hold.
        out: where they are written; by default the folder of results.

    Returns:
        The files and folders of the whole folder; where formats of single pictures were asked for,
        `out` itself comes first.

    Raises:
        WordmaskError: a format that cannot be made, no results, a label file that is missing.
    """
    given = [formats] if isinstance(formats, str) else list(formats)
    chosen = [name for name in check_formats(given) if name in given]
    for name in ("json", "scores"):
        if name in chosen:
            raise WordmaskError(
                f"the format {name} cannot be made from labels; ask wordmask segment for it"
            )
    each = split_formats(chosen)[0]
    images = any(one.needs == "image" for one in each)
    folder = Path(folder)
    out = folder if out is None else Path(out)
    results = read_results(folder, images)
    if each or out.resolve() == folder.resolve():
        check_names(chosen, (name for name, _ in results.pictures))
    for item in results if each else ():
        for one in each:
            one.write(out, item)
    made = write_folder_formats(out, chosen, replace(results, images=False))
    return [out, *made] if each else made


def is_result(path: str | PurePosixPath) -> bool:
    """Whether a picture at a path below a folder of results is one of the results.

    The folder is known to hold results; pictures may lie among them.
    """
    *folders, file = PurePosixPath(path).parts
    each, whole = split_formats(FORMATS)
    return (
        file.endswith(tuple(one.suffix for one in each if not one.suffix.endswith("/")))
        or any(one.endswith(("_masks", "_cutouts")) for one in folders)
        or (bool(folders) and folders[0] in {one.suffix.rstrip("/") for one in whole})
    )
