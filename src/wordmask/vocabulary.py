"""The words of a segmentation: classes with synonyms, the background strategy, prompt templates."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wordmask.errors import WordmaskError, unknown

if TYPE_CHECKING:
    import torch

MAX_CLASSES = 65_535  # label 0 is taken, and labels are at most uint16
TEMPLATE_LISTS = ("openai", "cliper", "maskclip", "single", "tips")

# A stock word is too close to a word if its cosine lies more than this many standard deviations
# above the mean of that word's cosines over the whole stock. See `pick_distractors`.
CLOSE_IN_MEANING = 1.75
NEGATIVES = 64  # chosen, and the text cosine above which a candidate is too close to a word
TOO_CLOSE = 0.90
MIN_DISTRACTORS = 24
MOST_SHOWN = 12  # names in a message

IRREGULAR_PLURALS = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "feet": "foot",
    "mice": "mouse",
    "geese": "goose",
    "leaves": "leaf",
    "shelves": "shelf",
    "knives": "knife",
}


@dataclass(frozen=True, init=False)
class Vocabulary:
    """The classes to find: each a tuple of names (synonyms), the first of which is shown.

    `classes` is a list of names, a list of lists of names, a mix of the two, or a dict
    `{name: synonym, or list of synonyms, or empty list}`. A name is taken whole: it is never split,
    only blanks around it are removed. The same name twice inside a class counts once; names are
    compared ignoring case, because CLIP's tokenizer lowers it.

    Raises WordmaskError: no class, more than 65,535 classes, a bare string, an empty name, an entry
    that is not a string, a class without a name, the same name in two classes.

    Examples:
        >>> Vocabulary(["cat", ["sofa", "couch"]]).classes
        (('cat',), ('sofa', 'couch'))
    """

    classes: tuple[tuple[str, ...], ...]

    def __init__(
        self,
        classes: Iterable[str | Iterable[str]] | Mapping[str, str | Iterable[str]],
    ) -> None:
        if isinstance(classes, Mapping):
            entries: list[Any] = [[key, *_synonyms(key, value)] for key, value in classes.items()]
        else:
            entries = _ordered(classes, "words", split=True)
        if not entries:
            raise WordmaskError("the list of words is empty; give at least one class name")
        if len(entries) > MAX_CLASSES:
            raise WordmaskError(f"received {len(entries):,} classes; at most {MAX_CLASSES:,} fit")
        cleaned = tuple(_names(entry, f"class {i}") for i, entry in enumerate(entries, 1))
        first_use: dict[str, int] = {}
        for index, names in enumerate(cleaned):
            for name in names:
                other = first_use.setdefault(_key(name), index)
                if other != index:
                    raise WordmaskError(
                        f"the name {name!r} is in class {other + 1} ({cleaned[other][0]!r}) and in "
                        f"class {index + 1} ({names[0]!r}); leave it in one of them"
                    )
        object.__setattr__(self, "classes", cleaned)

    @property
    def names(self) -> tuple[str, ...]:
        """The display name of each class, its first name."""
        return tuple(names[0] for names in self.classes)

    @property
    def queries(self) -> tuple[str, ...]:
        """Every name of every class, class by class, as the text tower encodes them."""
        return tuple(name for names in self.classes for name in names)

    def __len__(self) -> int:
        return len(self.classes)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return iter(self.classes)

    @classmethod
    def of(cls, words: Any) -> Vocabulary:
        """Return `words` as a Vocabulary; it may be one already, or what the constructor takes."""
        return words if isinstance(words, cls) else cls(words)

    @classmethod
    def parse(cls, *texts: str) -> Vocabulary:
        """Read the command line's form: `;` between classes, `,` between synonyms of one class.

        Several texts add up. A name that holds a comma or a semicolon cannot be written so; use a
        file for it.

        Examples:
            >>> Vocabulary.parse("cat; sofa, couch").classes
            (('cat',), ('sofa', 'couch'))
        """
        return cls([part.split(",") for text in texts for part in _semicolons(text)])

    @classmethod
    def from_file(cls, path: str | Path) -> Vocabulary:
        """Read classes from a file (UTF-8).

        `.json`: a list or a dict as the constructor takes it. Anything else: one class a line,
        taken whole, with a tab before each synonym; blank lines and lines that start with `#` are
        skipped. Commas and semicolons never split a line: real class names hold them.

        Raises WordmaskError, with the path: a file that cannot be read or is not UTF-8, JSON that
        is not valid or holds something else, and all errors of the constructor.
        """
        path = Path(path)
        text = _read_text(path, "classes")
        try:
            if path.suffix.lower() == ".json":
                return cls(_json_classes(text))
            return cls([re.split(r"\t+", line) for line in _lines(text)])
        except WordmaskError as error:
            raise WordmaskError(f"{path}: {error}") from None


@dataclass(frozen=True)
class Background:
    """How pixels that show none of the words are found: they get label 0 by one of six rules.

    Build one with `none`, `names`, `threshold`, `complement`, `auto` or `negatives`; `kind` says
    which it is.
    `distractors` are extra names in the softmax; their pixels get label 0, whatever the kind. With
    `overlap` some may be names of a class too, and take its pixels, as released lists have it.
    """

    kind: Literal["none", "names", "threshold", "complement", "auto", "negatives"]
    distractors: tuple[str, ...] = ()
    probability: float | None = None
    power: float | None = None
    overlap: bool = False
    count: int | None = None

    @classmethod
    def none(cls) -> Background:
        """Every pixel gets one of the words."""
        return cls("none")

    @classmethod
    def names(cls, *names: str | Iterable[str]) -> Background:
        """Pixels that match one of these names best are background: `names("sky", "wall")`."""
        distractors = _distractors(names)
        if not distractors:
            raise WordmaskError("Background.names needs at least one name")
        return cls("names", distractors)

    @classmethod
    def threshold(cls, probability: float, names: str | Iterable[str] = ()) -> Background:
        """Pixels whose best class probability is below `probability` (0 < p < 1) are background."""
        value = _number(probability, "the background threshold")
        if not 0 < value < 1:
            raise WordmaskError(f"the background threshold must lie between 0 and 1, not {value:g}")
        return cls("threshold", _distractors((names,)), probability=value)

    @classmethod
    def complement(cls, power: float = 2.0, names: str | Iterable[str] = ()) -> Background:
        """Add a background channel (1 - max over classes)^power, with power > 0."""
        value = _number(power, "the background power")
        if value <= 0:
            raise WordmaskError(f"the background power must be above 0, not {value:g}")
        return cls("complement", _distractors((names,)), power=value)

    @classmethod
    def auto(cls) -> Background:
        """Take general scene words as distractors, except those close to the user's words."""
        return cls("auto")

    @classmethod
    def negatives(cls, count: int = NEGATIVES) -> Background:
        """Choose so many names of COCO-Stuff and ADE20K, far from the user's words, as distractors.

        See `pick_negatives`; the chosen ones are the `distractors` of the encoded words.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise WordmaskError(f"the number of negatives must be 1 or more, not {count!r}")
        return cls("negatives", count=count)

    @classmethod
    def of(cls, value: Any) -> Background:
        """Return `value`, a Background, "none", "auto", "negatives" or a list of names, as one."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and value == "negatives":
            return cls.negatives()
        if isinstance(value, str):
            if value in ("none", "auto"):
                return cls(value)  # type: ignore[arg-type]
            raise WordmaskError(
                f"unknown background {value!r}; choose 'none', 'auto' or 'negatives', give a list "
                f"of names, as in {as_list(value)}, or use Background.threshold or "
                "Background.complement"
            )
        if isinstance(value, Iterable):
            return cls.names(*_ordered(value, "background names"))
        raise WordmaskError(
            "a background must be a Background, 'none', 'auto', 'negatives' or a list of names; "
            f"received {type(value).__name__}"
        )

    @classmethod
    def parse(cls, text: str) -> Background:
        """Read the command line's form.

        `none`, `auto`, `negatives`, `negatives:32`, `names:sky;wall`, `threshold:0.3`,
        `complement`, `complement:2`; names may follow a number: `threshold:0.3:sky;wall`,
        `complement:2:sky;wall`.
        """
        kind, _, rest = text.strip().partition(":")
        if kind in ("none", "auto"):
            if rest:
                raise WordmaskError(f"the background {kind!r} takes nothing after it: {text!r}")
            return cls(kind)  # type: ignore[arg-type]
        if kind == "names":
            return cls.names(_semicolons(rest))
        if kind == "negatives":
            if rest and not rest.strip().isdecimal():
                raise WordmaskError(
                    f"the background negatives takes a whole number, as in negatives:32: {text!r}"
                )
            return cls.negatives(int(rest)) if rest else cls.negatives()
        if kind not in ("threshold", "complement"):
            raise unknown(
                "background",
                kind,
                ["none", "auto", "negatives", "names", "threshold", "complement"],
            )
        number, colon, tail = rest.partition(":")
        names = _semicolons(tail) if colon else []
        if kind == "threshold":
            if not number:
                raise WordmaskError("the background threshold needs a number, as in threshold:0.3")
            return cls.threshold(_parse_number(number, text), names)
        return cls.complement(_parse_number(number, text) if number else 2.0, names)

    def check(self, words: Vocabulary) -> None:
        """Raise WordmaskError if a distractor is also a name of a class, without `overlap`."""
        wanted = set() if self.overlap else {_key(name) for name in words.queries}
        for name in self.distractors:
            if _key(name) in wanted:
                raise WordmaskError(
                    f"the name {name!r} is both a class and a background name; leave it in one"
                )

    def describe(self) -> dict[str, Any]:
        """Return the strategy as a short dict of plain values, for provenance and JSON."""
        parts = {
            "kind": self.kind,
            "probability": self.probability,
            "power": self.power,
            "distractors": list(self.distractors) or None,
            "overlap": self.overlap or None,
            "count": self.count,
        }
        return {key: value for key, value in parts.items() if value is not None}


def templates(source: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Return prompt templates, each with exactly one `{}` where the name goes.

    `source`: "openai" (CLIP's 80 for ImageNet), "cliper" (CLIPer's 15), "maskclip" (the 80 and five
    about a scene), "single" ("a photo of a {}."), "tips" (TIPSv2's nine), the path of a UTF-8 text
    file (one template per line; blank lines and lines that start with `#` are skipped), or a list
    of templates.

    Raises WordmaskError: an unknown name, a file that cannot be read, an empty list, a template
    without exactly one `{}`.
    """
    if isinstance(source, (str, Path)):
        found = _lines(_template_text(source))
    else:
        found = _ordered(source, "templates")
    if not found:
        raise WordmaskError(f"no template in {str(source)!r}; give at least one, such as 'a {{}}.'")
    for template in found:
        if not isinstance(template, str):
            raise WordmaskError(f"a template must be a string; received {type(template).__name__}")
        if template.count("{}") != 1:
            raise WordmaskError(f"the template {template!r} must hold {{}} exactly once")
    return tuple(found)


def scene_words() -> tuple[str, ...]:
    """Return the stock of general scene words from which `Background.auto` takes distractors."""
    return tuple(_lines(_packaged("scene_words.txt")))


def negative_candidates() -> tuple[str, ...]:
    """Return the names of COCO-Stuff and ADE20K, from which `Background.negatives` chooses.

    Of several names of a class the first. COCO-Stuff's "wall-brick" is "brick wall" here, and its
    "sky-other" and "door-stuff" are "sky" and "door".
    """
    found: dict[str, None] = {}
    for file in ("coco_stuff", "ade20k"):
        for line in _lines(_packaged(f"datasets/names/plain/{file}.txt")):
            parts = line.split("\t")[0].split("-")
            found[" ".join(x for x in reversed(parts) if x not in ("other", "stuff"))] = None
    return tuple(found)


def pick_negatives(
    word_embeddings: np.ndarray | torch.Tensor,
    candidate_embeddings: np.ndarray | torch.Tensor,
    count: int = NEGATIVES,
) -> list[int]:
    """Choose candidates that stand for what a picture may show besides the user's words.

    `word_embeddings` (N, E), `candidate_embeddings` (S, E); rows need not be unit. Left out are
    candidates whose cosine with a word is above 0.90. Of the others `count` are chosen by facility
    location: greedily, each time the one that raises most the sum over all others of the largest
    cosine with a chosen one; of equal ones the first. Returns increasing indices, of all if there
    are fewer. Source: the audit of wookat/ovss-vocab-audit, 2026.

    Raises WordmaskError if every candidate is too close.
    """
    words, offered = _unit_rows(word_embeddings), _unit_rows(candidate_embeddings)
    far = np.flatnonzero((offered @ words.T).max(axis=1) <= TOO_CLOSE)
    if not len(far):
        raise WordmaskError(
            f"all {len(offered)} candidates for negatives have a text cosine above {TOO_CLOSE} "
            "with a word; name the background, as in names:sky;wall"
        )
    cosines = np.round(offered[far] @ offered[far].T, 6)  # the same choice on every machine
    covered = np.full(len(far), -1.0)
    chosen: list[int] = []
    for _ in range(min(count, len(far))):
        gain = np.maximum(cosines, covered).sum(axis=1)
        gain[chosen] = -np.inf
        chosen.append(int(gain.argmax()))
        covered = np.maximum(covered, cosines[chosen[-1]])
    return sorted(far[chosen].tolist())


def pick_distractors(
    word_embeddings: np.ndarray | torch.Tensor,
    stock_embeddings: np.ndarray | torch.Tensor,
    names: Sequence[str],
    stock: Sequence[str],
) -> list[int]:
    """Choose the stock words that may stand for "none of the user's words".

    `word_embeddings` (N, E) belong to `names`, `stock_embeddings` (S, E) to `stock`; rows need not
    be unit. Returns increasing indices into `stock`.

    A stock word is left out when
    (a) it is one of the user's words: the same but for case and plural, or with the same head
        ("car" and "red car", "bottle" and "bottle of wine"); or
    (b) it is close in meaning to one: its cosine to that word exceeds mean + 1.75 standard
        deviations of the word's cosines over the stock. CLIP's text cosines are all high and in a
        narrow band that differs from model to model, so no fixed cosine works.
    If (b) leaves fewer than 24, the least close ones are kept until there are 24; those left out by
    (a) stay out.

    The two errors differ. A close word that stays takes pixels of the user's word ("building"
    those of "house"); one left out leaves its pixels to the user's word ("dog" to "cat"). 1.75
    was chosen for that: each word of the user leaves out three to eight of the 115. It was
    tested with a sentence-embedding model (MiniLM), not with CLIP: there "cat" leaves out dog,
    "house" building, wall and roof, "sea" water, boat and river; members of a general word are
    missed ("food" keeps cake).

    Raises WordmaskError if the rows do not match the names.
    """
    words = _unit_rows(word_embeddings)
    offered = _unit_rows(stock_embeddings)
    if len(words) != len(names) or len(offered) != len(stock):
        raise WordmaskError(
            f"received {len(words)} and {len(offered)} embeddings for {len(names)} words and "
            f"{len(stock)} stock words; give one row for each"
        )
    other = [i for i, word in enumerate(stock) if not any(same_word(word, n) for n in names)]
    if not len(names) or not other:
        return other
    cosines = words @ offered.T  # (N, S)
    spread = np.maximum(cosines.std(axis=1, keepdims=True), 1e-6)
    closeness = ((cosines - cosines.mean(axis=1, keepdims=True)) / spread).max(axis=0)  # (S,)
    far = [i for i in other if closeness[i] <= CLOSE_IN_MEANING]
    if len(far) < MIN_DISTRACTORS:
        far = sorted(other, key=lambda i: float(closeness[i]))[:MIN_DISTRACTORS]
    return sorted(far)


def _key(name: str) -> str:
    return " ".join(name.casefold().split())


def as_list(text: str) -> str:
    """The list to write in place of one string of names between commas or semicolons.

    >>> as_list("cat, dog"), as_list("cat; sofa, couch")
    ('["cat", "dog"]', '["cat", ["sofa", "couch"]]')
    """
    classes = [[name.strip() for name in part.split(",")] for part in _semicolons(text)]
    groups = [[name for name in names if name] for names in classes]
    groups = [[name] for name in groups[0]] if len(groups) == 1 else [one for one in groups if one]
    shown = [one if len(one) > 1 else one[0] for one in groups[:MOST_SHOWN] or [["cat"]]]
    listed = json.dumps(shown, ensure_ascii=False)
    return listed if len(groups) <= MOST_SHOWN else f"{listed[:-1]}, ...]"


def _ordered(values: Any, what: str, split: bool = False) -> list[Any]:
    """List `values`; refuse anything but an ordered collection.

    split: whether commas and semicolons in one string stand between names.
    """
    if isinstance(values, str):
        listed = as_list(values) if split else json.dumps([values], ensure_ascii=False)
        raise WordmaskError(f"{what} must be a list, not one string: write {listed}")
    if isinstance(values, (bytes, set, frozenset)) or not isinstance(values, Iterable):
        raise WordmaskError(f"{what} must be a list of strings; received {type(values).__name__}")
    return list(values)


def _synonyms(key: Any, value: Any) -> list[Any]:
    """List the synonyms that a dict gives for a display name: none, one, or several."""
    if value is None or isinstance(value, str):
        return [value] if value else []
    return _ordered(value, f"the synonyms of {key!r}")


def _names(entry: Any, where: str) -> tuple[str, ...]:
    """Clean the names of one class: strip, refuse empty ones, drop repeats."""
    if not isinstance(entry, (str, list, tuple)):
        raise WordmaskError(
            f"{where} must be a name or a list of names; received {type(entry).__name__}"
        )
    names: dict[str, str] = {}
    for name in [entry] if isinstance(entry, str) else entry:
        if not isinstance(name, str):
            raise WordmaskError(
                f"a name of {where} must be a string; received {type(name).__name__}"
            )
        if not name.strip():
            raise WordmaskError(f"{where} has an empty name; remove it or write the word")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise WordmaskError(f"{where} has a name that is not valid text: {name!r}; use UTF-8")
        names.setdefault(_key(name), name.strip())
    if not names:
        raise WordmaskError(f"{where} has no name; give it at least one")
    return tuple(names.values())


def _distractors(names: tuple[str | Iterable[str], ...]) -> tuple[str, ...]:
    flat: list[Any] = []
    for name in names:
        flat += [name] if isinstance(name, str) else _ordered(name, "background names")
    return _names(flat, "the background") if flat else ()


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise WordmaskError(f"{what} must be a number; received {type(value).__name__}")
    if not math.isfinite(value):
        raise WordmaskError(f"{what} must be a finite number; received {value}")
    return float(value)


def _parse_number(number: str, text: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise WordmaskError(f"the background {text!r} needs a number, not {number!r}") from None


def _semicolons(text: str) -> list[str]:
    """Split at `;`, allowing one at the very end."""
    return text.strip().removesuffix(";").split(";")


def _lines(text: str) -> list[str]:
    lines = (line.strip() for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise WordmaskError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except FileNotFoundError:
        raise WordmaskError(f"no file {path} to read {what} from") from None
    except OSError as error:
        raise WordmaskError(f"cannot read {what} from {path}: {error.strerror}") from None


def _json_classes(text: str) -> list[Any] | dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise WordmaskError(f"the class {twice!r} is there twice; merge the two")
        return found

    try:
        classes = json.loads(text, object_pairs_hook=unique)
    except (json.JSONDecodeError, RecursionError) as error:
        raise WordmaskError(f"not valid JSON ({error})") from None
    if not isinstance(classes, (list, dict)):
        raise WordmaskError(
            f"the JSON must be a list or an object of class names; received "
            f"{type(classes).__name__}"
        )
    return classes


def _packaged(name: str) -> str:
    return (resources.files("wordmask") / name).read_text(encoding="utf-8")


def _template_text(source: str | Path) -> str:
    if source in TEMPLATE_LISTS:
        return _packaged(f"templates/{source}.txt")
    if "{}" in str(source):
        raise WordmaskError(f"templates must be a list: write [{str(source)!r}]")
    if isinstance(source, str) and not Path(source).exists() and not Path(source).suffix:
        raise unknown("template list", source, TEMPLATE_LISTS)
    return _read_text(Path(source), "templates")


def _unit_rows(rows: Any) -> np.ndarray:
    """Return rows of an array or tensor as float64 unit rows on the CPU."""
    if hasattr(rows, "detach"):
        rows = rows.detach().cpu().float().numpy()
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def _singulars(word: str) -> set[str]:
    """The forms that `word` may be a plural of, and itself."""
    forms = {word, IRREGULAR_PLURALS.get(word, word)}
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        forms.add(word[:-1])
        if word.endswith("ies"):
            forms.add(word[:-3] + "y")
        elif word.endswith("es"):
            forms.add(word[:-2])
    return forms


def same_word(one: str, other: str) -> bool:
    """Whether two names are the same word, or noun phrases with the same head."""
    a, b = _head(one), _head(other)
    return a in _singulars(b) or b in _singulars(a)


def _head(name: str) -> str:
    """The noun that a phrase is about: its last word, or the last one before "of", "in", "with"."""
    tokens = re.findall(r"[^\W_]+", name.casefold()) or [name.casefold()]
    for index, token in enumerate(tokens[1:], 1):
        if token in ("of", "in", "on", "with", "and", "or", "for"):
            return tokens[index - 1]
    return tokens[-1]
