"""What a format is: of one picture, or of a whole folder of results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import BinaryIO

from wordmask.errors import WordmaskError
from wordmask.files import make_folder, write_atomically
from wordmask.segmentation import Segmentation

INDEX = "words.json"  # in a folder of files for each word: which is which
PACKAGES = {  # that the formats of an extra import
    "formats": ("pycocotools", "scipy"),
    "label-studio": ("label_studio_sdk",),
}


@dataclass(frozen=True)
class Item:
    """One picture with its result, as formats take it.

    Attributes:
        name: the path of its results below the folder of results, with "/", without suffix.
        picture: where the picture is: a path or an address; "" if that is not known.
        result: the labels. `image` and `scores` may be None: then formats that need them refuse.
        words: the classes with their synonyms, for the JSON; None if they are not known.
        labels: whether a label file is written too: "labels", "labels16" or "".
    """

    name: str
    picture: str
    result: Segmentation
    words: Sequence[Sequence[str]] | None = None
    labels: str = ""

    @property
    def linked(self) -> str:
        """The file name of the picture among results: its name with its suffix."""
        return self.name + PurePath(self.picture).suffix

    @property
    def file_name(self) -> str:
        """The path of the picture as its user knows it, below the folder that was given."""
        whole = PurePath(self.picture).as_posix()
        if whole.endswith(self.name):  # of pictures that differ in their suffix alone
            return self.name
        return self.linked


@dataclass(frozen=True)
class Format:
    """What is common to all formats.

    Attributes:
        name: for `--format`.
        help: one sentence.
        suffix: what is added to the name of a picture; of a format of the whole folder, the file or
            folder that is written. A "/" at the end: a folder.
        extra: the optional packages of wordmask that it needs, or "".
    """

    name: str
    help: str
    suffix: str
    extra: str = ""

    def check(self) -> None:
        """Refuse if a package is missing.

        Raises:
            WordmaskError: it names the extra.
        """
        for package in PACKAGES.get(self.extra, ()):
            if find_spec(package) is None:
                raise WordmaskError(
                    f"the format {self.name} needs {package}; install it with "
                    f'pip install "wordmask[{self.extra}]"'
                )


@dataclass(frozen=True)
class PictureFormat(Format):
    """A format of one picture.

    Attributes:
        encode: makes the file from an `Item`, or the files of a folder by name, `INDEX` last.
        needs: "image" or "scores" that must have been kept, or "".
    """

    encode: Callable[[Item], bytes | dict[str, bytes]] = lambda item: b""
    needs: str = ""

    @property
    def done(self) -> str:
        """What is added to the name of a picture for the file that is written last."""
        return self.suffix + INDEX if self.suffix.endswith("/") else self.suffix

    def path(self, out: Path, name: str) -> Path:
        """The file of a picture that exists when the picture is done."""
        return out / (name + self.done)

    def files(self, item: Item) -> dict[str, bytes]:
        """The files of a picture by what is added to its name, `done` last."""
        content = self.encode(item)
        if isinstance(content, bytes):
            return {self.suffix: content}
        return {self.suffix + name: data for name, data in content.items()}

    def write(self, out: Path, item: Item) -> Path:
        """Write the files of a picture, each whole or not at all; return that of `path`."""
        path, files = self.path(out, item.name), self.files(item)
        make_folder(path.parent)
        self.clear(out, item.name, files)
        for suffix, data in files.items():
            write_atomically(out / (item.name + suffix), partial(_put, data))
        return path

    def clear(self, out: Path, name: str, files: Collection[str]) -> None:
        """Remove what an earlier run left in the folder of a picture, but for `files`."""
        folder = out / (name + self.suffix)
        if self.suffix.endswith("/") and folder.is_dir():
            for other in set(folder.iterdir()) - {out / (name + one) for one in files}:
                other.unlink()


@dataclass(frozen=True)
class FolderFormat(Format):
    """A format of a whole folder of results, made from its label files one after the other.

    Attributes:
        make: `make(path, names, items)` writes the file or folder `path`; names are the classes,
            items the pictures, which may be gone through more than once.
    """

    make: Callable[[Path, Sequence[str], Iterable[Item]], None] = lambda path, names, items: None

    def path(self, out: Path) -> Path:
        """The file or folder."""
        return out / self.suffix.rstrip("/")


def _put(data: bytes, file: BinaryIO) -> None:
    file.write(data)
