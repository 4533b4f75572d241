"""More or fewer words than the classes of a data set, see `Protocol.vocabulary`.

How a score falls with the number of words to choose from, on the same pictures, tells more about a
method than its score with the one list of its benchmark.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable

import numpy as np

from wordmask.datasets import VOID, Benchmark, benchmark
from wordmask.errors import WordmaskError
from wordmask.vocabulary import same_word

STOCK = ("context459", "ade847")  # their plain names are the words that are added


def added_words(
    bench: Benchmark, names: str, vocabulary: str, background: Iterable[str] = ()
) -> tuple[str, ...]:
    """The words beside the classes: none, or the first ones of a fixed random order of the stock.

    Args:
        bench: the data set.
        names: the source of its class names.
        vocabulary: as in `Protocol`; with a larger number, the same words and more.
        background: background words, which are not added either.

    Raises:
        WordmaskError: there are not as many.
    """
    if vocabulary == "all":
        return ()
    count = int(vocabulary) - (0 if vocabulary.startswith("+") else bench.classes)
    if count <= 0:
        return ()
    stock = _stock((*(n for each in bench.names[names] for n in each), *background))
    if count > len(stock):
        raise WordmaskError(
            f"got vocabulary={vocabulary}; {bench.name} has {bench.classes} classes, and there are "
            f"{len(stock)} words to add, so give at most {bench.classes + len(stock)}"
        )
    return stock[:count]


@functools.lru_cache
def _stock(names: tuple[str, ...]) -> tuple[str, ...]:
    words = dict.fromkeys(
        one[0].lower() for name in STOCK for one in benchmark(name).names["plain"]
    )
    other = [w for w in sorted(words) if not any(same_word(w, name) for name in names)]
    return tuple(other[i] for i in np.random.default_rng(0).permutation(len(other)))


def chosen_classes(
    target: np.ndarray, classes: int, vocabulary: str, picture: str
) -> np.ndarray | None:
    """The classes of a picture's own vocabulary if it has fewer than all: indices from 0.

    Those in its target, and others drawn by its id; more than the number if its target has more.

    Args:
        target: (H, W) labels.
        classes: C of the data set.
        vocabulary: as in `Protocol`.
        picture: its id.
    """
    if not vocabulary.isdigit() or int(vocabulary) >= classes:
        return None
    labels = np.unique(target)
    present = labels[(labels > 0) & (labels != VOID)].astype(np.int64) - 1
    seed = int.from_bytes(hashlib.blake2b(picture.encode(), digest_size=8).digest(), "big")
    others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(classes), present))
    more = others[: max(int(vocabulary) - len(present), 0)]
    return np.sort(np.concatenate([present, more]))
