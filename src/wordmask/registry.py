"""What can be chosen by name: wordmask's own parts, those of installed packages, those of files.

A part is a class (a method, a refiner) or an instance (a data set) with a `name`. An installed
package offers its parts as entry points; in a Python file they are written `FILE.py:NAME`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from wordmask.errors import WordmaskError, unknown
from wordmask.user_code import (
    class_of,
    describe_error,
    describe_place,
    is_file,
    is_ours,
    load_object,
    remember,
    source_file,
)

Part = TypeVar("Part")
Given = TypeVar("Given")

_FILE = re.compile(r"(?P<part>.+\.py:[A-Za-z_]\w*)(?::(?P<variant>.*))?")
_WORD = re.compile(r"[a-z][a-z0-9_]*")


class Registry(Mapping[str, Part]):
    """Parts by name. Entry points are imported when their name is used, or all are listed.

    Args:
        kind: the name of such a part in messages.
        group: the entry-point group, as in "wordmask.methods".
        check: takes what is to be registered and returns the part, or raises a `WordmaskError`.
    """

    def __init__(self, kind: str, group: str, check: Callable[[Any], Part]):
        self.kind = kind
        self.group = group
        self._check = check
        self._known: dict[str, Part] = {}
        self._imported: dict[str, WordmaskError | None] = {}  # entry points and their errors

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}, {sorted(self._known)})"

    def __getitem__(self, name: str) -> Part:
        if name not in self._known:
            if name not in self._plugins:
                raise KeyError(name)
            self._import(name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over all names; a plug-in that cannot be imported is left out with a warning."""
        for name in self._plugins:
            try:
                self._import(name)
            except WordmaskError as error:
                warnings.warn(f"left out: {error}", stacklevel=2)
        return iter(tuple(self._known))

    def __len__(self) -> int:
        return len(tuple(iter(self)))

    def register(self, given: Given) -> Given:
        """Register a part by its name, as a decorator or by a call; returns what was given.

        The same class of the same file, run again, replaces its earlier self.

        Raises:
            WordmaskError: something that is not such a part, or a name that another part has.
        """
        self._add(self._check(given))
        return given

    def _add(self, part: Part) -> None:
        name = _name(part)
        other = self._known.get(name)
        taken = None if other is None or _same(other, part) else describe_place(other)
        for plugin in () if is_ours(part) else self._plugins.get(name, ()):
            if plugin.module.partition(".")[0] != class_of(part).__module__.partition(".")[0]:
                taken = f"the installed package {_package(plugin)}"
        if taken:
            raise WordmaskError(
                f"the {self.kind} {class_of(part).__qualname__} of {describe_place(part)} has the "
                f"name {name!r}, which {taken} has; give it another name"
            )
        self._known[name] = part
        remember(class_of(part))

    def resolve(self, given: Any) -> Part:
        """The part that a name, a class (which is registered) or `FILE.py:NAME` stands for.

        Raises:
            WordmaskError: there is none, it cannot be imported, or it is not such a part.
        """
        if isinstance(given, str):
            given = given.strip()
            if not is_file(given):
                try:
                    return self[given]
                except KeyError:
                    raise unknown(self.kind, given, self) from None
            given = load_object(given)
        part = self.check(given)
        if self._known.get(_name(part)) is not part:
            self._add(part)
        return part

    def check(self, given: Any) -> Part:
        """The part that something is, registered or not.

        Raises:
            WordmaskError: it is no such part.
        """
        known = any(given is part for part in self._known.values())
        return given if known else self._check(given)

    def origin(self, name: str) -> str:
        """Where a part comes from: "wordmask", an installed package with its version, or a file."""
        part = self[name]
        plugins = [] if is_ours(part) else self._plugins.get(name, [])
        return _package(plugins[0]) if plugins else describe_place(part)

    @cached_property
    def _plugins(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for plugin in entry_points(group=self.group):
            found.setdefault(plugin.name, []).append(plugin)
        return found

    def _import(self, name: str) -> None:
        """Import the entry point of a name, once.

        Raises:
            WordmaskError: it cannot be imported, or is not such a part.
        """
        if name not in self._imported:
            plugin, *others = self._plugins[name]
            self._imported[name] = None
            try:
                if any(other.value != plugin.value for other in others):
                    raise WordmaskError(f"{_package(others[0])} has the same name; uninstall one")
                part = self.resolve(plugin.load())
                if _name(part) != name:
                    raise WordmaskError(f"its name is {_name(part)!r}, unlike its entry point's")
            except (Exception, SystemExit) as error:  # of third-party code
                why = describe_error(error)
                self._imported[name] = WordmaskError(
                    f"the {self.kind} {name!r} of {_package(plugin)} cannot be used: {why}"
                )
        problem = self._imported[name]
        if problem is not None:
            raise problem


def check_name(owner: str, name: object) -> None:
    """Refuse a name that commands could not take: it is one lower-case word.

    Raises:
        WordmaskError: any other name.
    """
    if not isinstance(name, str) or not _WORD.fullmatch(name) or name in ("none", "all"):
        raise WordmaskError(
            f'{owner} has the name {name!r}; give it a plain word, as in name = "my_part" '
            "(lower-case letters, digits and _)"
        )


def split_variant(text: str) -> tuple[str, str | None]:
    """A part's name, or `FILE.py:NAME`, and the variant after a further colon.

    >>> split_variant("cliper:paper"), split_variant("my.py:Mine"), split_variant("my.py:Mine:fast")
    (('cliper', 'paper'), ('my.py:Mine', None), ('my.py:Mine', 'fast'))
    """
    match = _FILE.fullmatch(text.strip())
    if match:
        return match["part"], match["variant"]
    name, colon, variant = text.strip().partition(":")
    return name, variant if colon else None


def _name(part: Any) -> str:
    return part.name


def _package(plugin: EntryPoint) -> str:
    return f"{plugin.dist.name} {plugin.dist.version}" if plugin.dist else plugin.module


def _same(old: Any, new: Any) -> bool:
    """Whether two parts are the same code run twice: one file's class, or equal own instances."""
    a, b = class_of(old), class_of(new)
    if a.__qualname__ != b.__qualname__:
        return False
    if a.__module__ != b.__module__ and (
        source_file(a) is None or source_file(a) != source_file(b)
    ):
        return False
    return isinstance(new, type) or not is_ours(new) or repr(old) == repr(new)
