"""Lines of text in any script that a font of the system has. Pillow only.

The font inside Pillow holds basic Latin. Other characters are looked up with fontconfig where it
is there, else among the files in the usual folders of Linux, macOS and Windows. Scripts whose
letters join (Arabic, Devanagari) need Pillow with raqm, which its wheels have.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast

from PIL import ImageDraw, ImageFont

LONGEST = 300  # characters of a line that are looked at
FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
    "~/AppData/Local/Microsoft/Windows/Fonts",
)
STYLES = ("bold", "italic", "oblique", "light", "thin", "black", "medium", "condensed")


class Face(NamedTuple):
    """A font: its file and its place in it; no file is the font inside Pillow."""

    path: str | None
    number: int = 0


BUILT_IN = Face(None)


class Line(NamedTuple):
    """A line of text as it can be drawn, in pieces of one font each."""

    pieces: tuple[tuple[str, ImageFont.FreeTypeFont], ...]

    @property
    def width(self) -> float:
        """In pixels."""
        return sum(font.getlength(text) for text, font in self.pieces)

    def draw(
        self,
        draw: ImageDraw.ImageDraw,
        at: tuple[float, float],
        colour: tuple[int, ...],
        align: str = "left",
    ) -> None:
        """Draw the line on a baseline, with its left, middle or right end at a point."""
        x, y = at[0] - self.width * {"left": 0, "middle": 0.5, "right": 1}[align], at[1]
        for text, font in self.pieces:
            draw.text((x, y), text, colour, font, anchor="ls")
            x += font.getlength(text)


@lru_cache(maxsize=2048)
def line(text: str, size: int) -> Line:
    """Choose fonts of a size in pixels that draw a text: one if it has all, else several.

    A letter that no font has loses its accents (é to e); what is still missing is drawn as an
    empty box, with a warning that names a font to install.
    """
    kept = (" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text[:LONGEST])
    text = unicodedata.normalize("NFC", "".join(kept))
    whole = _face(_needed(text))
    if whole:
        return Line(((text, _load(whole, size)),))
    pieces: list[tuple[str, Face]] = []
    missing = set()
    for character in text:
        face = _face(character)
        if not face and (face := _face(_unaccented(character))):
            character = _unaccented(character)
        if not face and unicodedata.category(character) != "Cn":  # code points of no character
            missing.add(character)
        if pieces and not _needed(character):
            face = pieces[-1][1]  # marks and spaces stay with their letter
        face = face or BUILT_IN
        if pieces and face == pieces[-1][1]:
            pieces[-1] = (pieces[-1][0] + character, face)
        else:
            pieces.append((character, face))
    if missing:
        _warn("".join(c for c in text if c in missing))
    if _right_to_left(text):
        pieces.reverse()
    return Line(tuple((piece, _load(face, size)) for piece, face in pieces))


def cut(text: str, size: int, width: float) -> str:
    """Shorten a text to a width in pixels, with an ellipsis for what is left out."""
    text = " ".join(text.split())
    if len(text) <= LONGEST and line(text, size).width <= width:
        return text
    fits, too_long = 0, min(len(text), LONGEST)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if line(text[:middle].rstrip() + "…", size).width <= width:
            fits = middle
        else:
            too_long = middle
    return text[:fits].rstrip() + "…"


def wrapped(text: str, size: int, width: int, lines: int) -> list[str]:
    """Break a text into at most `lines` lines of a width in pixels; the last one is cut."""
    words = text.split()
    done: list[str] = []
    while len(done) < lines - 1 and words:
        taken = 1
        while taken < len(words):
            if line(" ".join(words[: taken + 1]), size).width > width:
                break
            taken += 1
        done.append(cut(" ".join(words[:taken]), size, width))
        words = words[taken:]
    if words:
        done.append(cut(" ".join(words), size, width))
    return done or [""]


# -------------------------------------------------------------------------------------------------
# Fonts


def _needed(text: str) -> str:
    """The characters that a font must have, once each: no spaces, marks or joiners."""
    own = {c for c in text if not c.isspace() and unicodedata.category(c) not in ("Cf", "Mn", "Me")}
    return "".join(sorted(own))


@lru_cache(maxsize=4096)
def _face(characters: str) -> Face | None:
    """The first font that has all of some characters, the font inside Pillow before others."""
    if all(_draws(BUILT_IN, one) for one in characters):
        return BUILT_IN
    for face in _candidates(characters):
        if all(_draws(face, one) for one in characters):
            return face
    return None


def _candidates(characters: str) -> Sequence[Face]:
    """Fonts that may have some characters, the plainest first."""
    program = shutil.which("fc-list")
    if not program:
        return _installed()
    wanted = ":charset=" + " ".join(f"{ord(one):x}" for one in characters)
    try:
        done = subprocess.run(
            [program, "-f", "%{file}\t%{index}\n", wanted],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return _installed()
    rows = [row.rpartition("\t") for row in done.stdout.splitlines()]
    # The upper half of an index is a variation of the font.
    return _ranked({Face(path, int(index or 0) & 0xFFFF) for path, _, index in rows})


@lru_cache(maxsize=1)
def _installed() -> Sequence[Face]:
    """The fonts in the usual folders."""
    files = (path for folder in FOLDERS for path in Path(folder).expanduser().rglob("*"))
    return _ranked({Face(str(path)) for path in files})


def _ranked(faces: Iterable[Face]) -> Sequence[Face]:
    """Fonts that Pillow scales, upright ones without serifs first."""

    def rank(face: Face) -> tuple[bool, bool, bool, Face]:
        name = Path(face.path or "").stem.lower()
        styled = any(word in name for word in STYLES)
        return styled, "serif" in name or "mono" in name, "sans" not in name, face

    outlines = (".ttf", ".ttc", ".otf")
    return sorted((f for f in faces if str(f.path).lower().endswith(outlines)), key=rank)


@lru_cache(maxsize=256)
def _load(face: Face, size: int) -> ImageFont.FreeTypeFont:
    if face.path is None:
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))
    return ImageFont.truetype(face.path, size, face.number)


@lru_cache(maxsize=16384)
def _draws(face: Face, character: str) -> bool:
    """Whether a font has a glyph of its own for a character."""
    try:
        font = _load(face, 16)
        glyph, none = font.getmask(character), font.getmask("\uffff")  # U+FFFF is in no font
    except OSError:  # pictures in place of outlines
        return False
    return (glyph.size, bytes(glyph)) != (none.size, bytes(none))


def _unaccented(character: str) -> str:
    return unicodedata.normalize("NFKD", character)[0]


def _right_to_left(text: str) -> bool:
    """Whether the first letter is of a script that is written from right to left."""
    kinds = (unicodedata.bidirectional(c) for c in text)
    return next((kind for kind in kinds if kind in ("L", "R", "AL")), "L") != "L"


@lru_cache(maxsize=256)
def _warn(characters: str) -> None:
    """Say once which characters no font has, and name one that does."""
    wide = any(unicodedata.east_asian_width(one) in "WF" for one in characters)
    symbol = all(unicodedata.category(one)[0] in "SC" for one in characters)
    package, name = (
        ("fonts-symbola", "Symbola")
        if symbol
        else ("fonts-noto-cjk", "Noto Sans CJK")
        if wide
        else ("fonts-noto-core", "Noto Sans")
    )
    warnings.warn(
        f'no font on this system has the characters of "{characters}"; '
        f"install for example {package if sys.platform == 'linux' else name}",
        stacklevel=2,
    )
