from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wordmask import vocabulary
from wordmask.errors import WordmaskError
from wordmask.vocabulary import (
    Background,
    Vocabulary,
    negative_candidates,
    pick_distractors,
    pick_negatives,
    scene_words,
    templates,
)


def refused(call: object, *arguments: object) -> str:
    """The one line with which `call` refuses its arguments."""
    with pytest.raises(WordmaskError) as caught:
        call(*arguments)  # type: ignore[operator]
    line = str(caught.value)
    assert line
    assert "\n" not in line
    return line


# ---- Vocabulary


def test_a_list_of_names_and_of_synonyms() -> None:
    words = Vocabulary(["cat", ["sofa", "couch"], ("tv",)])
    assert words.classes == (("cat",), ("sofa", "couch"), ("tv",))
    assert words.names == ("cat", "sofa", "tv")
    assert words.queries == ("cat", "sofa", "couch", "tv")
    assert len(words) == 3
    assert list(words) == list(words.classes)


def test_a_name_is_never_split() -> None:
    names = ["building, edifice", "door; gate", "tv\tmonitor", "rock/stone"]
    assert Vocabulary(names).names == tuple(names)


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1),
        min_size=1,
        unique_by=str.casefold,
    )
)
def test_any_text_is_a_name_as_it_is(names: list[str]) -> None:
    assert Vocabulary(names).names == tuple(names)


def test_a_dict_names_its_classes_first() -> None:
    words = Vocabulary({"cat": [], "sofa": ["couch", "sofa"], "tv": "television", "dog": ""})
    assert words.classes == (("cat",), ("sofa", "couch"), ("tv", "television"), ("dog",))


def test_a_name_twice_in_one_class_counts_once() -> None:
    assert Vocabulary([["cat", "kitten", "cat ", "Cat"]]) == Vocabulary([["cat", "kitten"]])


def test_blanks_around_a_name_are_removed() -> None:
    assert Vocabulary(["  red  car \n"]).names == ("red  car",)


def test_vocabularies_are_values() -> None:
    one = Vocabulary(["cat"])
    assert one == Vocabulary([["cat"]])
    assert hash(one) == hash(Vocabulary(["cat"]))
    with pytest.raises(AttributeError):
        one.classes = ()  # type: ignore[misc]


def test_of_takes_what_the_constructor_takes() -> None:
    words = Vocabulary(["cat"])
    assert Vocabulary.of(words) is words
    assert Vocabulary.of(["cat"]) == Vocabulary.of({"cat": []}) == Vocabulary.of(("cat",)) == words


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ([], "empty"),
        ({}, "empty"),
        ("cat", "list"),
        (b"cat", "bytes"),
        ({"cat", "dog"}, "set"),
        (None, "NoneType"),
        (3, "int"),
        (Path("names.txt"), "Path"),
        (["cat", ""], "class 2 has an empty name"),
        (["cat", " \t"], "class 2 has an empty name"),
        (["caf\udce9"], "not valid text"),
        ([["cat", ""]], "class 1 has an empty name"),
        ([[]], "class 1 has no name"),
        (["cat", 3], "class 2 must be a name or a list of names; received int"),
        ([["cat", None]], "a name of class 1 must be a string; received NoneType"),
        ({"cat": 3}, "received int"),
        ({"cat": [3]}, "received int"),
        ({3: []}, "received int"),
        (["cat", "dog", "cat"], "'cat' is in class 1 ('cat') and in class 3 ('cat')"),
        (["cat", "Cat"], "'Cat' is in class 1 ('cat')"),
        ([["sofa", "couch"], ["bed", "couch"]], "'couch' is in class 1 ('sofa') and in class 2"),
    ],
)
def test_bad_words_are_refused(classes: object, said: str) -> None:
    assert said in refused(Vocabulary, classes)
    assert said in refused(Vocabulary.of, classes)


def test_labels_hold_65535_classes_and_no_more() -> None:
    names = [str(i) for i in range(65_536)]
    assert len(Vocabulary(names[:-1])) == 65_535
    assert "65,536" in refused(Vocabulary, names)


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("cat", (("cat",),)),
        (" cat ; sofa, couch;", (("cat",), ("sofa", "couch"))),
        ("red car;traffic light", (("red car",), ("traffic light",))),
    ],
)
def test_parse_splits_for_the_command_line(text: str, classes: tuple[object, ...]) -> None:
    assert Vocabulary.parse(text).classes == classes


@pytest.mark.parametrize("text", ["", ";", "cat;;dog", "cat,", "cat;cat"])
def test_parse_refuses(text: str) -> None:
    refused(Vocabulary.parse, text)


def test_a_text_file_is_one_class_a_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(
        "\ufeff# mine\r\nbuilding, edifice\r\n\r\n  sofa\t\tcouch \r\ndoor; gate\r\ncafé".encode()
    )
    assert Vocabulary.from_file(path).classes == (
        ("building, edifice",),
        ("sofa", "couch"),
        ("door; gate",),
        ("café",),
    )
    assert Vocabulary.from_file(str(path)) == Vocabulary.from_file(path)


@pytest.mark.parametrize("classes", [["cat", ["sofa", "couch, settee"]], {"cat": [], "sofa": "x"}])
def test_a_json_file_holds_what_the_constructor_takes(tmp_path: Path, classes: object) -> None:
    path = tmp_path / "names.JSON"
    path.write_text(json.dumps(classes))
    assert Vocabulary.from_file(path) == Vocabulary(classes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b"# only this\n", "empty"),
        ("a.txt", b"caf\xe9\n", "UTF-8"),
        ("a.txt", b"cat\ndog\ncat\n", "class 3"),
        ("a.json", b"", "not valid JSON"),
        ("a.json", b"[1, 2", "not valid JSON"),
        ("a.json", b"[" * 100_000, "not valid JSON"),
        ("a.json", b"[1, 2]", "received int"),
        ("a.json", b'"cat"', "received str"),
        ("a.json", b"null", "received NoneType"),
        ("a.json", b'{"cat": [], "cat": ["kitten"]}', "'cat' is there twice"),
        ("a.json", b'["caf\xe9"]', "UTF-8"),
    ],
)
def test_a_bad_file_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    line = refused(Vocabulary.from_file, path)
    assert said in line
    assert line.count(str(path)) == 1


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    assert "no file" in refused(Vocabulary.from_file, tmp_path / "none.txt")
    assert str(tmp_path) in refused(Vocabulary.from_file, tmp_path)


# ---- Background


def test_each_strategy_and_its_description() -> None:
    assert Background.none().describe() == {"kind": "none"}
    assert Background.auto().describe() == {"kind": "auto"}
    assert Background.names("sky", "wall").describe() == {
        "kind": "names",
        "distractors": ["sky", "wall"],
    }
    assert Background.negatives(8).describe() == {"kind": "negatives", "count": 8}
    assert Background.of("negatives") == Background.negatives(64)
    assert Background.names(["sky", "wall"]) == Background.names("sky", "wall", "sky")
    assert Background.threshold(0.3).describe() == {"kind": "threshold", "probability": 0.3}
    assert Background.complement().describe() == {"kind": "complement", "power": 2.0}
    combined = Background.threshold(0.5, ["sky"])
    assert combined.describe() == {"kind": "threshold", "probability": 0.5, "distractors": ["sky"]}
    assert Background.complement(1, "sky").distractors == ("sky",)
    assert json.loads(json.dumps(combined.describe())) == combined.describe()


@pytest.mark.parametrize(
    ("text", "background"),
    [
        ("none", Background.none()),
        ("auto", Background.auto()),
        ("negatives", Background.negatives()),
        ("negatives:8", Background.negatives(8)),
        ("names:sky;wall;", Background.names("sky", "wall")),
        ("names:a: b", Background.names("a: b")),
        ("threshold:0.3", Background.threshold(0.3)),
        ("threshold:.3:sky;wall", Background.threshold(0.3, ["sky", "wall"])),
        ("complement", Background.complement()),
        ("complement:3", Background.complement(3)),
        ("complement:3:sky", Background.complement(3, ["sky"])),
        ("complement::sky", Background.complement(2, ["sky"])),
    ],
)
def test_parse_background(text: str, background: Background) -> None:
    assert Background.parse(text) == background


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "unknown background"),
        ("threshhold:0.3", "did you mean threshold"),
        ("none:1", "takes nothing"),
        ("auto:sky", "takes nothing"),
        ("names", "empty name"),
        ("names:", "empty name"),
        ("names:sky;;wall", "empty name"),
        ("threshold", "needs a number"),
        ("threshold:", "needs a number"),
        ("threshold:sky", "'sky'"),
        ("threshold:0", "between 0 and 1"),
        ("threshold:1", "between 0 and 1"),
        ("threshold:nan", "finite"),
        ("complement:0", "above 0"),
        ("complement:inf", "finite"),
        ("threshold:0.3:", "empty name"),
    ],
)
def test_parse_background_refuses(text: str, said: str) -> None:
    assert said in refused(Background.parse, text)


def test_of_background() -> None:
    chosen = Background.threshold(0.2)
    assert Background.of(chosen) is chosen
    assert Background.of("none") == Background.none()
    assert Background.of("auto") == Background.auto()
    assert Background.of(["sky", "wall"]) == Background.names("sky", "wall")
    for bad in ["sky", [], [3], None, 0.3, {"sky"}, torch.zeros(2, 3)]:
        refused(Background.of, bad)


@pytest.mark.parametrize(
    ("build", "value"),
    [
        (Background.threshold, "0.3"),
        (Background.threshold, True),
        (Background.threshold, float("nan")),
        (Background.threshold, 1.5),
        (Background.complement, -1),
        (Background.complement, None),
        (Background.names, ""),
        (Background.names, 3),
        (Background.names, [None]),
        (Background.names, []),
    ],
)
def test_bad_background_values_are_refused(build: object, value: object) -> None:
    refused(build, value)


def test_a_background_name_that_is_also_a_class_is_refused() -> None:
    words = Vocabulary([["sofa", "Bed"], "cat"])
    Background.names("sky").check(words)
    assert "'bed'" in refused(Background.names("sky", "bed").check, words)
    assert "'cat'" in refused(Background.threshold(0.5, ["cat"]).check, words)


# ---- templates


@pytest.mark.parametrize(("name", "count"), [("openai", 80), ("cliper", 15), ("maskclip", 85)])
def test_the_published_lists_have_their_length(name: str, count: int) -> None:
    found = templates(name)
    assert len(set(found)) == len(found) == count
    assert all(template.count("{}") == 1 for template in found)


def test_template_lists_relate() -> None:
    assert templates("single") == ("a photo of a {}.",)
    assert templates("maskclip")[:80] == templates("openai")
    assert all(template.endswith("in the scene.") for template in templates("maskclip")[80:])


def test_own_templates(tmp_path: Path) -> None:
    assert templates(["a {}", "{0} {}"]) == ("a {}", "{0} {}")
    path = tmp_path / "mine"
    path.write_text("# mine\na {}.\n\nthe {}!\n")
    assert templates(path) == templates(str(path)) == ("a {}.", "the {}!")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("openia", "did you mean openai"),
        ("missing/mine.txt", "no file"),
        ("a {}.", "list"),
        ([], "no template"),
        (["a {}.", "a photo"], "'a photo' must hold {} exactly once"),
        (["{} and {}"], "'{} and {}'"),
        ([3], "received int"),
        (None, "NoneType"),
    ],
)
def test_bad_templates_are_refused(source: object, said: str) -> None:
    assert said in refused(templates, source)


# ---- distractors


def test_scene_words_are_names_of_classes() -> None:
    stock = scene_words()
    assert 80 <= len(stock) <= 120
    assert Vocabulary(list(stock)).names == stock  # none empty, none twice


def spread(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 64))


@pytest.mark.parametrize(
    ("name", "stock", "same"),
    [
        ("car", "car", True),
        ("Cars", "car", True),
        ("red car", "car", True),
        ("car", "sports car", True),
        ("bottle of wine", "bottle", True),
        ("boxes", "box", True),
        ("bushes", "bush", True),
        ("city", "cities", True),
        ("people", "person", True),
        ("shelves", "shelf", True),
        ("traffic-light", "traffic light", True),
        ("traffic_light", "traffic light", True),
        ("car seat", "car", False),
        ("bras", "brass", False),
        ("bus", "bush", False),
        ("seaweed", "sea", False),
        ("wine", "bottle of wine", False),
        ("?", "car", False),
    ],
)
def test_the_same_word_is_left_out(name: str, stock: str, same: bool) -> None:
    others = [f"thing{i}" for i in range(40)]
    embeddings = spread(41)
    embeddings[0] = -spread(1, 1)[0]  # as far in meaning as can be: only the letters speak
    kept = pick_distractors(spread(1, 1), embeddings, [name], [stock, *others])
    assert (0 not in kept) is same


def test_a_word_close_in_meaning_is_left_out_at_any_scale() -> None:
    stock = [f"thing{i}" for i in range(60)]
    embeddings, word = spread(60), spread(1, 1)
    embeddings[7] = word[0] + 0.3 * embeddings[7]
    kept = pick_distractors(word, embeddings, ["zebra"], stock)
    assert 7 not in kept
    assert len(kept) > 50
    # CLIP's text embeddings share a large common part, so that all cosines lie high.
    common = 20 * np.ones(64)
    crowded = pick_distractors(word + common, embeddings + common, ["zebra"], stock)
    cosine = vocabulary._unit_rows(word + common) @ vocabulary._unit_rows(embeddings + common).T
    assert cosine.min() > 0.9
    assert 7 not in crowded
    assert len(crowded) > 50
    assert pick_distractors(5 * word, 3 * embeddings, ["zebra"], stock) == kept


def test_the_threshold_worked_by_hand() -> None:
    # 2 of 40 at cosine 1, the others at 0: mean 0.05, deviation sqrt(0.05 * 0.95) = 0.218, so the
    # two lie (1 - 0.05) / 0.218 = 4.36 deviations above the mean, the others 0.23 below it.
    stock = [f"thing{i}" for i in range(40)]
    embeddings = np.zeros((40, 3))
    embeddings[:, 1] = 1
    embeddings[:2, :2] = [1, 0]
    assert pick_distractors(np.eye(3)[:1], embeddings, ["zebra"], stock) == list(range(2, 40))
    # With 16 of 40 at cosine 1: mean 0.4, deviation 0.49, 1.22 deviations: not exceptional.
    embeddings[:16, :2] = [1, 0]
    assert pick_distractors(np.eye(3)[:1], embeddings, ["zebra"], stock) == list(range(40))


def test_some_stock_is_always_kept() -> None:
    stock = [f"thing{i}" for i in range(40)]
    embeddings = spread(40)
    names = [f"word{i}" for i in range(40)]
    kept = pick_distractors(embeddings, embeddings, names, stock)  # every word is close to one
    assert len(kept) == vocabulary.MIN_DISTRACTORS
    assert kept == sorted(kept)
    assert pick_distractors(embeddings, embeddings, stock, stock) == []  # their very own words
    same_everywhere = np.ones((40, 4))
    assert len(pick_distractors(same_everywhere, same_everywhere, names, stock)) == 40


def test_tensors_and_arrays_choose_alike() -> None:
    stock = list(scene_words())
    words, embeddings = spread(3, 1), spread(len(stock))
    names = ["cat", "red car", "zebra"]
    kept = pick_distractors(words, embeddings, names, stock)
    as_tensors = [torch.tensor(rows, requires_grad=True) for rows in (words, embeddings)]
    assert pick_distractors(*as_tensors, names, stock) == kept
    assert {"cat", "car"}.isdisjoint(stock[i] for i in kept)
    assert pick_distractors(words[:0], embeddings, [], stock) == list(range(len(stock)))


def test_rows_must_match_names() -> None:
    assert "2 words" in refused(pick_distractors, spread(1), spread(3), ["a", "b"], ["c", "d", "e"])
    assert "1 stock" in refused(pick_distractors, spread(1), spread(3), ["a"], ["c"])


# ---- the module


def test_importing_vocabulary_loads_no_torch() -> None:
    code = "import sys, wordmask.vocabulary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- one string in place of a list ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("cat, dog", '["cat", "dog"]'),
        ("cat;dog", '["cat", "dog"]'),
        ("cat; sofa, couch;", '["cat", ["sofa", "couch"]]'),
        ("cat", '["cat"]'),
        ("größe,猫", '["größe", "猫"]'),
        (",".join("abcdefghijklmnop"), '"k", "l", ...]'),
        ("", '["cat"]'),
    ],
)
def test_one_string_shows_the_list_to_write(text, written):
    with pytest.raises(WordmaskError, match="must be a list, not one string: write ") as error:
        Vocabulary(text)
    assert str(error.value).endswith(written)


def test_a_background_in_one_string_shows_the_list_to_write():
    with pytest.raises(WordmaskError, match=re.escape('as in ["sky", "wall"]')):
        Background.of("sky, wall")


def test_texts_of_the_command_line_add_up():
    words = Vocabulary.parse("cat", "sofa, couch; dog")
    assert words.classes == (("cat",), ("sofa", "couch"), ("dog",))


# ---- negatives


def test_negatives_by_facility_location() -> None:
    """Against the sum over all candidates of the largest cosine, tried for each choice."""
    rng = np.random.default_rng(3)
    words, offered = rng.normal(size=(2, 5)), rng.normal(size=(30, 5))
    offered[7] = words[1] + 0.05 * rng.normal(size=5)  # too close
    unit = offered / np.linalg.norm(offered, axis=1, keepdims=True)
    cosines = unit @ unit.T
    far = [i for i in range(30) if max(unit[i] @ w / np.linalg.norm(w) for w in words) <= 0.9]
    assert 7 not in far
    chosen: list[int] = []
    for _ in range(6):
        gains = {
            i: sum(max(cosines[j, k] for k in [*chosen, i]) for j in far)
            for i in far
            if i not in chosen
        }
        chosen.append(max(gains, key=lambda i: gains[i]))
    assert pick_negatives(words, offered, 6) == sorted(chosen)
    assert pick_negatives(words, offered, 100) == far
    with pytest.raises(WordmaskError, match="with a word; name the background"):
        pick_negatives(words, np.repeat(words, 3, axis=0))


def test_candidates_are_the_names_of_both_data_sets_once() -> None:
    found = negative_candidates()
    assert len(found) == len(set(found)) == 263
    assert {"traffic light", "sky", "brick wall", "windowpane", "door"} <= set(found)
    assert not any("-" in name or name.endswith(" other") for name in found)


@pytest.mark.parametrize("text", ["negatives:0", "negatives:-3", "negatives:some"])
def test_bad_numbers_of_negatives(text: str) -> None:
    with pytest.raises(WordmaskError, match="negatives"):
        Background.parse(text)
