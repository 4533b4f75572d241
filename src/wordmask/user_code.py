"""Python code that is not wordmask's own: files that parts are in, and what code a part runs.

A part of a file is written `FILE.py:NAME`. The hash of its source goes into the state of a run, so
that edited code never gives old numbers.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wordmask.errors import WordmaskError, unknown


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


# -- where code is ------------------------------------------------------------------------------


def class_of(part: Any) -> type:
    """A class itself, or the class of an instance."""
    return part if isinstance(part, type) else type(part)


def is_ours(part: Any) -> bool:
    """Whether a class, or the class of an instance, is defined in wordmask itself."""
    return class_of(part).__module__.partition(".")[0] == "wordmask"


def describe_place(part: Any) -> str:
    """Where a class, or the class of an instance, is defined: wordmask, a file, or a module."""
    file = source_file(class_of(part))
    return "wordmask" if is_ours(part) else str(file or class_of(part).__module__)


def source_file(cls: type) -> Path | None:
    """The source file of a class, if there is one."""
    name = getattr(sys.modules.get(cls.__module__), "__file__", None)
    file = Path(name).resolve() if name else None
    return file if file is not None and file.suffix == ".py" and file.is_file() else None


def source_files(parts: Sequence[Any]) -> list[str]:
    """The source files of instances, for processes that are to unpickle them."""
    return [str(file) for one in parts if (file := source_file(type(one))) is not None]


_remembered: dict[Path, bytes] = {}  # hashes of files at the time their parts were registered


def remember(cls: type) -> None:
    """Note the files of a class as they are now, when it is registered."""
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
    others = _others(class_of(part))
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
    file = source_file(cls)
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
