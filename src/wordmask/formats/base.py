"""What a format is: of one picture, or of a whole folder of results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePath, PurePosixPath

from wordmask.errors import WordmaskError
from wordmask.files import make_folder, write_atomically
from wordmask.segmentation import Segmentation

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
        encode: makes the file, or the files of a folder by name, from an `Item`.
        needs: "image" or "scores" that must have been kept, or "".
    """

    encode: Callable[[Item], bytes | dict[str, bytes]] = lambda item: b""
    needs: str = ""

    def path(self, out: Path, name: str) -> Path:
        """The file or folder of a picture; it exists when the picture was done."""
        return out / (name + self.suffix.rstrip("/"))

    def write(self, out: Path, item: Item) -> Path:
        """Write the file, whole or not at all, or a folder whose files are so; return its path."""
        path, content = self.path(out, item.name), self.encode(item)
        if isinstance(content, bytes):
            make_folder(path.parent)
            write_atomically(path, lambda file: file.write(content))
            return path
        make_folder(path)
        for other in {one.name for one in path.glob("*.png")} - content.keys():
            (path / other).unlink()  # of an earlier run
        for name, data in content.items():
            write_atomically(path / name, lambda file, data=data: file.write(data))
        return path


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


def first_part(path: str) -> str:
    """The first folder of a path with "/", or the path itself."""
    return PurePosixPath(path).parts[0]
