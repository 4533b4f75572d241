"""Parts chosen by name: wordmask's own, those of installed packages, and those of a file.

A part is a class (a method, a refiner) or an instance (a data set) with a `name`. An installed
package offers its parts as entry points; in a Python file they are written `FILE.py:NAME`.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import re
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from wordmask.errors import WordmaskError, unknown

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
            if plugin.module.partition(".")[0] != _class(part).__module__.partition(".")[0]:
                taken = f"the installed package {_package(plugin)}"
        if taken:
            raise WordmaskError(
                f"the {self.kind} {_class(part).__qualname__} of {describe_place(part)} has the "
                f"name {name!r}, which {taken} has; give it another name"
            )
        self._known[name] = part
        _remember(_class(part))

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
        if not any(given is part for part in self._known.values()):
            given = self._check(given)
            self._add(given)
        return given

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


def is_file(text: str) -> bool:
    """Whether a text is a Python file or `FILE.py:NAME`, and not a plain name."""
    return ".py:" in text or text.endswith(".py")


def load_object(text: str) -> Any:
    """What `FILE.py:NAME` stands for.

    Raises:
        WordmaskError: no such file or name, or an error while the file runs, with its line.
    """
    path, _, name = text.rpartition(":")
    if not path.endswith(".py"):
        raise WordmaskError(f"got {text!r}; write FILE.py:NAME, with a name defined in the file")
    module = import_file(path)
    if not hasattr(module, name):
        own = [
            n for n, x in vars(module).items() if getattr(x, "__module__", "") == module.__name__
        ]
        raise unknown(f"name in {path}", name, own)
    return getattr(module, name)


_modules: dict[Path, tuple[bytes, types.ModuleType]] = {}  # source that was run, and its module


def import_file(path: str) -> types.ModuleType:
    """Run a Python file as a module, once per version of its content; it may import neighbours.

    Raises:
        WordmaskError: no such file, or an error in it.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise WordmaskError(f"there is no file {path}; write FILE.py:NAME")
    source = file.read_bytes()
    if file in _modules and _modules[file][0] == source:
        return _modules[file][1]
    for neighbour in _with_neighbours(file)[1:]:
        loaded = getattr(sys.modules.get(neighbour.stem), "__file__", None)
        if neighbour.parent == file.parent and loaded and Path(loaded).resolve() != neighbour:
            raise WordmaskError(
                f"{path} imports {neighbour.name} of its folder, and {loaded} is loaded under that "
                f"name already; rename {neighbour.name}"
            )
    digest = hashlib.blake2b(str(file).encode(), digest_size=4).hexdigest()
    name = f"_wordmask_{file.stem}_{digest}"  # the same in every process
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and type hints need it there
    sys.path.insert(0, str(file.parent))
    try:
        exec(compile(source, str(file), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise WordmaskError(f"cannot use {path}: {describe_error(error, file)}") from error
    finally:
        with contextlib.suppress(ValueError):  # the file may have removed it
            sys.path.remove(str(file.parent))
    _modules[file] = source, module
    return module


def describe_error(error: BaseException, file: Path | None = None) -> str:
    """An error of third-party code on one line, with the line of `file` (or any) that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame for frame in frames if file is not None and frame.filename == str(file)]
    where = f"{lines[-1].filename}, line {lines[-1].lineno}" if lines else ""
    text = str(error)
    if isinstance(error, SyntaxError):
        where, text = f"{error.filename}, line {error.lineno}", error.msg
    elif not lines and frames and not isinstance(error, WordmaskError):
        where = f"{frames[-1].filename}, line {frames[-1].lineno}"
    kind = "" if isinstance(error, WordmaskError) else f"{type(error).__name__}: "
    return (f"{where}: {kind}{text}".removeprefix(": ").splitlines() or [kind])[0]


def _name(part: Any) -> str:
    return part.name


# -- where code is ------------------------------------------------------------------------------


def _class(part: Any) -> type:
    return part if isinstance(part, type) else type(part)


def is_ours(part: Any) -> bool:
    """Whether a class, or the class of an instance, is defined in wordmask itself."""
    return _class(part).__module__.partition(".")[0] == "wordmask"


def describe_place(part: Any) -> str:
    """Where a class, or the class of an instance, is defined: wordmask, a file, or a module."""
    file = _file(_class(part))
    return "wordmask" if is_ours(part) else str(file or _class(part).__module__)


def _package(plugin: EntryPoint) -> str:
    return f"{plugin.dist.name} {plugin.dist.version}" if plugin.dist else plugin.module


def _file(cls: type) -> Path | None:
    """The source file of a class, if there is one."""
    name = getattr(sys.modules.get(cls.__module__), "__file__", None)
    file = Path(name).resolve() if name else None
    return file if file is not None and file.suffix == ".py" and file.is_file() else None


def _same(old: Any, new: Any) -> bool:
    """Whether two parts are the same code run twice: one file's class, or equal own instances."""
    a, b = _class(old), _class(new)
    if a.__qualname__ != b.__qualname__:
        return False
    if a.__module__ != b.__module__ and (_file(a) is None or _file(a) != _file(b)):
        return False
    return isinstance(new, type) or not is_ours(new) or repr(old) == repr(new)


# -- hashes of the code -------------------------------------------------------------------------

_remembered: dict[Path, bytes] = {}  # hashes of files at the time their parts were registered


def _remember(cls: type) -> None:
    for base in _others(cls):
        _remembered.update({file: _hash(file.read_bytes()) for file in _sources(base)[1]})


def source_digest(part: Any) -> str | None:
    """A hash of the code behind a class, an instance or the text `FILE.py:NAME`.

    None if all of it is wordmask's own. Every base class counts: of a package all its Python
    files, of a single file also those of its folder that it imports, and without a file (in a
    notebook) the compiled code of the class and of what it calls there. Data files do not count.

    Raises:
        WordmaskError: a file was edited after it was imported, so that other code runs.
    """
    digest = hashlib.blake2b(digest_size=12)
    if isinstance(part, str):
        path, _, name = part.rpartition(":")
        file = Path(path).expanduser().resolve()
        digest.update(name.encode())
        _hash_files(digest, file.parent, _with_neighbours(file))
        return digest.hexdigest()
    others = _others(_class(part))
    for cls in others:
        digest.update(cls.__qualname__.encode())
        root, files = _sources(cls)
        _hash_files(digest, root, files)
        if not files:
            for line in _code(cls, set()):
                digest.update(line.encode())
    return digest.hexdigest() if others else None


def _hash_files(digest: Any, root: Path, files: Sequence[Path]) -> None:
    for file in files:
        content = _hash(file.read_bytes())
        if _remembered.get(file, content) != content:
            raise WordmaskError(
                f"{file} was edited after it was imported, so other code than this runs; restart, "
                "or import and register it again"
            )
        digest.update(file.relative_to(root).as_posix().encode() + content)


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=12).digest()


def _others(cls: type) -> list[type]:
    """A class and its bases, without those of wordmask and of Python's standard library."""
    ours = {"wordmask", *sys.stdlib_module_names}
    return [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in ours]


def _sources(cls: type) -> tuple[Path, list[Path]]:
    """The folder and the files of the code that a class may run; no files if it has none."""
    file = _file(cls)
    if file is None:
        return Path(), []
    top = sys.modules.get(cls.__module__.partition(".")[0])
    for folder in getattr(top, "__path__", ()):
        root = Path(folder).resolve()
        if file.is_relative_to(root):
            return root, sorted(root.rglob("*.py"))
    return file.parent, _with_neighbours(file)


def _with_neighbours(file: Path) -> list[Path]:
    """A file and those of its folder that it imports, directly or not; the file comes first."""
    found: dict[Path, None] = {}
    todo = [file]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found[path] = None
        if "site-packages" in path.parts:  # its neighbours are other packages
            continue
        try:
            nodes = list(ast.walk(ast.parse(path.read_bytes())))
        except (SyntaxError, ValueError):
            continue
        for node in nodes:
            start, names = file.parent, []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                start = path.parents[node.level - 1] if node.level else start
                base = node.module or ""
                names = [f"{base}.{alias.name}".strip(".") for alias in node.names]
            for name in names:
                parts = name.split(".")
                for count in range(1, len(parts) + 1):
                    stem = start.joinpath(*parts[:count])
                    todo += [
                        x for x in (stem.with_suffix(".py"), stem / "__init__.py") if x.is_file()
                    ]
    return [file, *sorted(path for path in found if path != file)]


def _code(thing: Any, visited: set[int]) -> Iterator[str]:
    """The compiled code of a class, function or value, and of what it uses in its own module."""
    thing = getattr(thing, "fget", None) or getattr(thing, "__func__", thing)
    thing = getattr(thing, "func", thing)  # of a cached property
    if isinstance(thing, (type, types.FunctionType)):
        if id(thing) in visited:
            return
        visited.add(id(thing))
    if isinstance(thing, type):
        for name, value in vars(thing).items():
            if not name.startswith("__") or isinstance(value, types.FunctionType):
                yield name
                yield from _code(value, visited)
    elif isinstance(thing, types.FunctionType):
        yield from _code(thing.__code__, visited)
        for value in (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()):
            yield from _code(value, visited)
        for value in map(thing.__globals__.get, _names(thing.__code__)):
            if getattr(value, "__module__", thing.__module__) == thing.__module__:
                yield from _code(value, visited)
    elif isinstance(thing, types.CodeType):
        yield thing.co_code.hex() + repr(thing.co_names)
        for constant in thing.co_consts:
            yield from _code(constant, visited)
    elif isinstance(thing, (set, frozenset)):  # unordered
        yield repr(sorted(map(repr, thing)))
    elif isinstance(thing, (bool, int, float, str, bytes, tuple, list, dict, types.NoneType)):
        yield re.sub(r" at 0x[0-9a-f]+", "", repr(thing))


def _names(code: types.CodeType) -> list[str]:
    """The names that code uses, including those of the functions inside it."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return [*code.co_names, *(name for one in inner for name in _names(one))]
