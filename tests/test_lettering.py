"""Labels in any script: shaped and drawn where a font is there, named where none is."""

from __future__ import annotations

import subprocess
import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from wordmask import lettering
from wordmask.lettering import BUILT_IN, Face

CHINESE, HINDI, ARABIC = (
    "\u732b\u3068\u72ac",
    "\u092c\u093f\u0932\u094d\u0932\u0940",
    "\u0642\u0637\u0629",
)


@pytest.fixture(autouse=True)
def fresh():
    caches = (lettering.line, lettering._face, lettering._installed, lettering._warn)
    for one in caches:
        one.cache_clear()
    yield
    for one in caches:
        one.cache_clear()


def drawn(text: str) -> np.ndarray:
    """Where a line has ink."""
    page = Image.new("RGB", (400, 80), "white")
    lettering.line(text, 32).draw(ImageDraw.Draw(page), (10, 50), (0, 0, 0))
    return np.asarray(page.convert("L")) < 128


def without_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "FOLDERS", ())
    monkeypatch.setattr(lettering.shutil, "which", lambda name: None)


@pytest.mark.parametrize("text", [CHINESE, HINDI, ARABIC, "\u043a\u043e\u0448\u043a\u0430"])
def test_other_scripts_are_drawn_with_a_font_of_the_system(text: str) -> None:
    needed = lettering._needed(text)
    face = lettering._face(needed)
    if face is None:
        pytest.skip(f"no font here has {text}; apt-get install fonts-noto-core fonts-noto-cjk")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ((shown, font),) = lettering.line(text, 32).pieces
    assert shown == text
    assert font.path == face.path is not None
    assert (drawn(text) != drawn("\uffff" * len(text))).any()  # more than boxes


@pytest.mark.parametrize(("text", "joined"), [(ARABIC, True), (HINDI, True)])
def test_letters_join(text: str, joined: bool) -> None:
    """The whole is narrower than its letters: they are shaped, and marks sit on their letters."""
    if not features.check("raqm"):
        pytest.skip("this Pillow has no raqm, which shapes Arabic and Devanagari")
    face = lettering._face(lettering._needed(text))
    if face is None:
        pytest.skip(f"no font here has {text}; apt-get install fonts-noto-core")
    font = lettering._load(face, 32)
    assert (font.getlength(text) < 0.95 * sum(map(font.getlength, text))) == joined


def test_a_name_of_two_scripts_takes_two_fonts_and_keeps_the_order_of_its_script() -> None:
    text = f"{CHINESE} {ARABIC}"
    if any(lettering._face(lettering._needed(one)) is None for one in (CHINESE, ARABIC)):
        pytest.skip("no fonts here for Chinese and Arabic")
    if lettering._face(lettering._needed(text)) is not None:
        pytest.skip("one font here has both Chinese and Arabic")
    pieces = [piece for piece, _ in lettering.line(text, 20).pieces]
    assert "".join(pieces) == text
    assert len(pieces) == 2
    backwards = [piece for piece, _ in lettering.line(f"{ARABIC} {CHINESE}", 20).pieces]
    assert backwards[0] == CHINESE  # Arabic begins at the right


@pytest.mark.parametrize(
    ("text", "characters", "package"),
    [
        (f"cat {CHINESE}", CHINESE, "fonts-noto-cjk"),
        (HINDI, HINDI, "fonts-noto-core"),
        ("\U0001f431", "\U0001f431", "fonts-symbola"),
    ],
)
def test_a_missing_font_is_named_once(
    text: str, characters: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_fonts(monkeypatch)
    monkeypatch.setattr(lettering.sys, "platform", "linux")
    with pytest.warns(UserWarning, match="no font") as caught:
        lettering.line(text, 14)
    (warning,) = caught
    assert str(warning.message) == (
        f'no font on this system has the characters of "{characters}"; '
        f"install for example {package}"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lettering.line(text, 20)  # once is enough
    assert drawn(text).any()  # boxes


def test_without_fonts_of_the_system_accents_go(monkeypatch: pytest.MonkeyPatch) -> None:
    without_fonts(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ((shown, _),) = lettering.line("caf\u00e9", 14).pieces
    assert shown == "cafe"


def test_latin_text_takes_the_font_inside_pillow_and_asks_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lettering, "_candidates", lambda characters: pytest.fail("asked"))
    ((_, font),) = lettering.line("a plain name, 41 %", 14).pieces
    assert font is lettering._load(BUILT_IN, 14)


def test_without_fontconfig_the_usual_folders_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    known = lettering._face("\u043a")
    if known is None or not str(known.path).endswith((".ttf", ".otf", ".ttc")):
        pytest.skip("no font here has Cyrillic")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "Some.ttf").symlink_to(known.path)
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    (tmp_path / "readme.txt").write_text("no font")
    without_fonts(monkeypatch)
    monkeypatch.setattr(lettering, "FOLDERS", (str(tmp_path),))
    lettering._face.cache_clear()
    assert lettering._face("\u043a") == Face(str(tmp_path / "sub" / "Some.ttf"))


def test_a_fontconfig_that_hangs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: object, **kwargs: object) -> None:
        raise subprocess.TimeoutExpired("fc-list", 20)

    monkeypatch.setattr(lettering.shutil, "which", lambda name: "/usr/bin/fc-list")
    monkeypatch.setattr(lettering.subprocess, "run", hang)
    monkeypatch.setattr(lettering, "FOLDERS", ())
    with pytest.warns(UserWarning, match="no font on this system"):
        lettering.line(CHINESE, 14)


def test_a_long_name_ends_in_an_ellipsis_and_fits() -> None:
    shown = lettering.cut("a very long name that does not fit at all", 16, 120)
    assert shown.endswith("…")
    assert shown.startswith("a very")
    assert lettering.line(shown, 16).width <= 120
    assert lettering.cut("short", 16, 120) == "short"
