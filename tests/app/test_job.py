"""What a visitor asks for, read and checked without a browser."""

from __future__ import annotations

import pytest

from wordmask import Background, Vocabulary, WordmaskError
from wordmask.app.job import Settings, read_background, read_words, understood


def test_tags_are_classes_with_synonyms():
    words = read_words(["cup", "sofa, couch", "cat; dog", " "])
    assert words == Vocabulary(["cup", ["sofa", "couch"], "cat", "dog"])
    with pytest.raises(WordmaskError, match="no words yet"):
        read_words([" ; "])


def test_what_was_understood_is_said():
    words = read_words(["cup", "table, table top"])
    assert understood(words, Background.auto()) == (
        "2 classes: cup; table (also: table top). Background: what general scene words fit better."
    )
    assert "what is most like sky, wall" in understood(words, Background.names("sky", "wall"))


def test_background_rules():
    words = read_words(["cup"])
    assert read_background("auto", ["sky"], None, words) == Background.auto()
    assert read_background("names", ["sky, wall"], None, words) == Background.names("sky", "wall")
    assert read_background("threshold", [], 0, words) == Background.threshold(0.3)
    assert read_background("complement", [], 3, words) == Background.complement(3)
    assert read_background("negatives", ["sky"], None, words) == Background.negatives()
    assert read_background("negatives", [], 8, words) == Background.negatives(8)
    assert "one of 8 names far from yours" in understood(words, Background.negatives(8))
    with pytest.raises(WordmaskError, match="there are no background words"):
        read_background("names", [], None, words)
    with pytest.raises(WordmaskError, match="both a class and a background name"):
        read_background("names", ["Cup"], None, words)


def test_options_of_method_and_refiners():
    options = (("logit_scale", "50"), ("pamr.steps", "3"), ("sam.missing", "1"))
    settings = Settings("wordmask/tiny-clip", "clip", None, ("pamr",), options)
    method, variant = settings.read_method()
    assert (variant, method.logit_scale, method.short_side) == ("paper", 50, None)
    assert settings.read_refiners()[0].steps == 3
    bad = Settings("wordmask/tiny-clip", "clip", options=(("logit_scale", "hot"),))
    with pytest.raises(WordmaskError, match=r"'logit_scale' got 'hot'; expected float"):
        bad.read_method()


@pytest.mark.parametrize(
    "settings",
    [
        Settings("/etc"),
        Settings("wordmask/tiny-clip", "my.py:Mine"),
        Settings("wordmask/tiny-clip", options=(("templates", "/etc/passwd"),)),
        Settings("wordmask/tiny-clip", networks=(("vfm", "my.py:load"),)),
    ],
)
def test_strangers_choose_no_files_of_this_machine(settings):
    Settings("wordmask/tiny-clip").check_public(["wordmask/tiny-clip"])
    with pytest.raises(WordmaskError):
        settings.check_public(["wordmask/tiny-clip"])
