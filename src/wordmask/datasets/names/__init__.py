"""Class names as in the released code of each paper; they affect the reported numbers.

One file per list: SOURCE/LIST.txt has one class per line in the order of the labels, synonyms
after tabs (what `Vocabulary.from_file` reads); SOURCE/LIST.background.txt has the background words.
`harness` has the lists that SCLIP, ClearCLIP and ProxyCLIP share. README.md gives their origins.
"""

from __future__ import annotations

from importlib import resources

# Folders with the lists of a source, in the order of the search.
FOLDERS = {
    "plain": ("plain",),
    "cliper": ("cliper",),
    "sclip": ("sclip", "harness"),
    "clearclip": ("clearclip", "harness"),
    "proxyclip": ("proxyclip", "harness"),
    "cliptrase": ("cliptrase",),
}
# CLIPer uses its background words even if a benchmark scores no background.
ALWAYS_WITH_BACKGROUND = ("cliper",)


def read_names(source: str, words: str) -> tuple[tuple[str, ...], ...]:
    """The names of each class, in the order of the labels; empty if the source has no list."""
    return tuple(tuple(line.split("\t")) for line in _lines(source, f"{words}.txt"))


def read_background(source: str, words: str, has_background: bool) -> tuple[str, ...]:
    """The background words of a source as released; empty if it uses none."""
    if not has_background and source not in ALWAYS_WITH_BACKGROUND:
        return ()
    return tuple(_lines(source, f"{words}.background.txt"))


def _lines(source: str, file: str) -> list[str]:
    for folder in FOLDERS[source]:
        path = resources.files(__name__) / folder / file
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            return [line for line in lines if line and not line.startswith("#")]
    return []
