"""Doors for other people's parts: what is refused, where names come from, when code has changed."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from wordmask import registry as registries
from wordmask.datasets import BENCHMARKS, benchmark
from wordmask.datasets.folder import Folder
from wordmask.errors import WordmaskError
from wordmask.methods import METHODS, Method, create_method, parse_option, read_method
from wordmask.methods.sclip import Sclip
from wordmask.options import check_class
from wordmask.refiners import REFINERS, Refiner, read_refiners
from wordmask.refiners.pamr import Pamr
from wordmask.registry import Registry, split_variant
from wordmask.user_code import load_object, source_digest

FILE = """
from dataclasses import dataclass
from wordmask.methods import Method, register

@register
@dataclass(frozen=True)
class Mine(Method):
    '''Does something.'''
    name, title, variants = "mine", "Mine", {"slow": {}, "fast": {"depth": 1}}
    depth: int = 3
"""


@pytest.fixture
def parts(monkeypatch) -> Registry[type[Method]]:
    """An empty registry of methods, without plug-ins."""
    monkeypatch.setattr(registries, "entry_points", lambda group: ())
    return Registry("method", "wordmask.methods", partial(check_class, Method))


def make(base: type = Method, plain: bool = False, **changes: Any) -> type:
    """A class that can be registered, but for the changes; None takes a member away."""
    members = {
        "__doc__": "Does something.",
        "__module__": __name__,
        "__annotations__": {"depth": "int"},
        "name": "mine",
        "title": "Mine",
        "variants": {"slow": {}, "fast": {"depth": 1}},
        "depth": 3,
        **changes,
    }
    made = type("Mine", (base,), {k: v for k, v in members.items() if v is not None})
    return made if plain else dataclass(frozen=True)(made)


def write(path: Path, text: str = FILE) -> str:
    path.write_text(text)
    return f"{path}:Mine"


# -- what can be registered ---------------------------------------------------------------------


def test_a_registry_is_a_mapping_that_nobody_writes_to(parts) -> None:
    one = make()
    assert parts.register(one) is one
    assert dict(parts) == {"mine": one}
    assert len(parts) == 1
    assert "mine" in parts
    assert "other" not in parts
    assert parts.get("other") is None
    with pytest.raises(TypeError):
        parts["other"] = one
    with pytest.raises(KeyError):
        parts["other"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plain": True}, ["Mine", "not a dataclass", "@dataclass(frozen=True)"]),
        ({"__doc__": None}, ["Mine", "no docstring"]),
        ({"__doc__": "  "}, ["Mine", "no docstring"]),
        ({"name": None}, ["Mine", "None", "plain word"]),
        ({"name": "my method"}, ["'my method'", "plain word"]),
        ({"name": "Mine"}, ["'Mine'", "plain word"]),
        ({"name": "a:b"}, ["'a:b'", "plain word"]),
        ({"name": "none"}, ["'none'", "plain word"]),
        ({"title": None}, ["Mine", "title"]),
        ({"title": " "}, ["Mine", "title"]),
        ({"extra": "clusters"}, ["Mine", "'clusters'", "cluster"]),
        ({"variants": None}, ["Mine", "no variants"]),
        ({"variants": {}}, ["Mine", "no variants"]),
        ({"variants": ["slow"]}, ["Mine", "no variants"]),
        ({"variants": {"a b": {}}}, ["'a b'", "without spaces"]),
        ({"variants": {"slow": 3}}, ["'slow'", "3", "by name"]),
        ({"variants": {"slow": {"dept": 1}}}, ["Mine", "'dept'", "depth"]),
        ({"variants": {"slow": {"depth": "1"}}}, ["'slow'", "'depth'", "int"]),
        ({"__annotations__": {"depth": "Number"}}, ["'slow'", "NameError", "Number"]),
        ({"__annotations__": {"depth": "list[int]"}}, ["'slow'", "TypeError", "tuple[int, ...]"]),
    ],
)
def test_what_is_wrong_with_a_class_is_said_in_one_line(parts, changes, words) -> None:
    with pytest.raises(WordmaskError) as error:
        parts.register(make(**changes))
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not len(parts)


@pytest.mark.parametrize("given", [3, None, Method, Refiner, Pamr, Sclip(), "FILE.txt:Mine"])
def test_only_methods_are_methods(parts, given) -> None:
    with pytest.raises(WordmaskError):
        parts.resolve(given)


def test_a_taken_name_is_refused_and_the_same_class_run_again_is_not(parts) -> None:
    first, again = make(), make(depth=5)
    parts.register(first)
    parts.register(again)
    assert parts["mine"] is again
    assert parts.register(make(base=Sclip, name="more")).title == "Mine"  # the rest is inherited
    other = make()
    other.__qualname__ = "Other"
    with pytest.raises(WordmaskError, match=r"Other of .*test_registry.py.*'mine'.*another name"):
        parts.register(other)
    with pytest.raises(WordmaskError, match=r"'sclip', which wordmask has"):
        METHODS.register(make(name="sclip"))
    assert METHODS["sclip"] is Sclip


def test_our_own_parts_pass_their_own_checks_and_reload() -> None:
    for one in METHODS.values():
        assert check_class(Method, one) is one
    for one in REFINERS.values():
        assert check_class(Refiner, one) is one
    module = sys.modules["wordmask.datasets.camvid"]
    importlib.reload(module)


# -- doors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("cliper", ("cliper", None)),
        (" cliper:paper ", ("cliper", "paper")),
        ("cliper:", ("cliper", "")),
        ("my.py:Mine", ("my.py:Mine", None)),
        ("a/my.py:Mine:fast", ("a/my.py:Mine", "fast")),
        (r"C:\a\my.py:Mine:fast", (r"C:\a\my.py:Mine", "fast")),
    ],
)
def test_a_variant_is_after_the_last_colon(text, split) -> None:
    assert split_variant(text) == split


def test_methods_by_name_class_file_and_instance(tmp_path) -> None:
    assert read_method("sclip") == (Sclip(), "paper")
    assert read_method("sclip:clearclip")[0] == Sclip(residual=False, ffn=False)
    assert read_method(Sclip, "clearclip", {"window": 224})[0].window == 224
    assert read_method(Sclip()) == (Sclip(), "paper")
    assert read_method(Sclip(residual=False, ffn=False))[1] == "clearclip"
    assert read_method(Sclip(residual=False))[1] == "custom"
    text = write(tmp_path / "my.py")
    method, variant = read_method(f"{text}:fast", None, {"window": 224})
    assert (method.name, method.depth, method.window, variant) == ("mine", 1, 224, "fast")
    assert type(method) is METHODS["mine"] is create_method(text)[0].__class__
    assert read_method(text, "fast")[1] == "fast"
    assert parse_option(text, "depth=7") == ("depth", 7)
    for given in (
        (f"{text}:fast", "slow"),
        (Sclip(), "paper"),
        (Sclip(), None, {"window": 224}),
        (Pamr,),
        (Pamr(),),
        (3,),
        (f"{text}:slower",),
    ):
        with pytest.raises(WordmaskError):
            read_method(*given)


def test_a_class_becomes_known_when_it_is_used_and_an_instance_is_checked() -> None:
    one = make(name="fresh")
    assert read_method(one())[1] == "slow"
    assert "fresh" not in METHODS
    with pytest.raises(WordmaskError, match="not a dataclass"):
        read_method(make(Sclip, plain=True)())
    assert read_method(one)[1] == "slow"
    assert METHODS["fresh"] is one
    assert METHODS.origin("fresh") == __file__
    assert METHODS.origin("sclip") == "wordmask"


def test_refiners_by_name_class_file_and_instance(tmp_path) -> None:
    path = tmp_path / "my.py"
    write(path, FILE.replace("methods", "refiners").replace("Method, register", "Refiner")
          .replace("(Method)", "(Refiner)").replace("@register\n", ""))  # fmt: skip
    text = f"{path}:Mine"
    found = read_refiners([Pamr, Pamr(steps=3), "pamr:fine", (Pamr, {"steps": 2}), (text, None)])
    assert [getattr(one, "steps", 0) for one in found] == [10, 3, 50, 2, 0]
    assert read_refiners(f"pamr,{text}:fast")[1].depth == 1
    assert read_refiners(Pamr) == (Pamr(),)
    assert "mine" in REFINERS
    for bad in (3, [3], [(3, {})], Sclip, "my.py", f"{text}:slower", [("pamr", {"step": 1})]):
        with pytest.raises((WordmaskError, TypeError)):
            read_refiners(bad)


def test_data_sets_by_name_class_file_instance_and_folder(tmp_path) -> None:
    text = write(
        tmp_path / "my.py",
        "from dataclasses import dataclass\nfrom wordmask.datasets.folder import Folder\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Mine(Folder):\n    name: str = 'mine'\n"
        "two = Mine(name='two')\nbad = Mine(name='a b')\n",
    )
    assert benchmark(text).name == "mine"
    assert benchmark("mine") is BENCHMARKS["mine"]
    assert benchmark(text.replace("Mine", "two")).name == "two"
    assert benchmark(Folder(name="three")).name == "three"
    assert benchmark(type(BENCHMARKS["mine"])).name == "mine"
    named = benchmark(f"photos={tmp_path}")
    assert (named.name, named.check_root(None), named.check_root("/x")) == (
        "photos",
        tmp_path,
        tmp_path,
    )
    assert named.open is not None
    for bad, words in (
        (text.replace("Mine", "bad"), "plain word"),
        (f"voc20={tmp_path}", "another data set"),
        (f"Photos={tmp_path}", "plain word"),
        (Sclip, "data set"),
        (type("Bare", (type(BENCHMARKS["voc20"]).__mro__[1],), {}), "default"),
    ):
        with pytest.raises(WordmaskError, match=words):
            benchmark(bad)
    with pytest.raises(WordmaskError, match="does not exist"):
        benchmark(f"photos={tmp_path / 'none'}").open(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", ["my.py, line 2", "ZeroDivisionError"]),
        ("def f(:", ["my.py, line 2", "SyntaxError"]),
        ("import no_such_thing", ["line 2", "ModuleNotFoundError", "no_such_thing"]),
        ("raise SystemExit(3)", ["line 2", "SystemExit"]),
        ("raise ValueError('a\\nb')", ["line 2", "ValueError: a"]),
        ("Other = 3", ["unknown name", "'Mine'"]),
        ("Mine = 3", ["got 3"]),
        (FILE.replace("@dataclass(frozen=True)\n", ""), ["line", "not a dataclass"]),
        (FILE.replace('"depth": 1', '"dept": 1'), ["line", "'dept'", "depth"]),
    ],
)
def test_errors_in_a_file_are_one_line_with_its_number(tmp_path, parts, text, words) -> None:
    given = write(tmp_path / "my.py", f"\n{text}\n")
    with pytest.raises(WordmaskError) as error:
        parts.resolve(given)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)
    write(tmp_path / "my.py")  # mended
    METHODS._known.pop("mine", None)
    assert parts.resolve(given).name == "mine"


def test_files_that_are_none(tmp_path) -> None:
    for text in (f"{tmp_path}/no.py:Mine", f"{tmp_path}/no.py", "no.py:a:b"):
        with pytest.raises(WordmaskError, match=r"FILE\.py:NAME"):
            load_object(text)


def test_a_file_runs_once_and_again_when_it_was_edited(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neighbour_of_mine.py").write_text("DEPTH = 3\n")
    text = write(tmp_path / "my.py", "from neighbour_of_mine import DEPTH\n" + FILE)
    path = list(sys.path)
    first = METHODS.resolve(text)
    assert METHODS.resolve("my.py:Mine") is first
    assert sys.path == path
    assert first.__module__ in sys.modules
    write(tmp_path / "my.py", FILE.replace("depth: int = 3", "depth: int = 4"))
    second = METHODS.resolve(text)
    assert (second().depth, second.__module__) == (4, first.__module__)
    assert METHODS["mine"] is second


def test_a_neighbour_that_another_file_has_loaded_is_refused(tmp_path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a_shared_name.py").write_text(f"WHO = '{name}'\n")
        (tmp_path / name / "my.py").write_text("from a_shared_name import WHO as Mine\n")
    assert load_object(f"{tmp_path}/one/my.py:Mine") == "one"
    with pytest.raises(WordmaskError, match=r"a_shared_name.py.*rename"):
        load_object(f"{tmp_path}/two/my.py:Mine")


# -- installed packages -------------------------------------------------------------------------


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A registry whose entry points are those of a package with the given files."""

    def make_package(**files: str) -> Registry[type[Method]]:
        folder = tmp_path / "parts_of_a_test"
        folder.mkdir()
        (folder / "__init__.py").touch()
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        found = [
            EntryPoint(name, f"parts_of_a_test.{name}:Mine", "wordmask.methods") for name in files
        ]
        monkeypatch.setattr(registries, "entry_points", lambda group: found)
        made = Registry("method", "wordmask.methods", partial(check_class, Method))
        monkeypatch.setattr(METHODS, "_known", made._known)
        return made

    yield make_package
    for name in [name for name in sys.modules if name.startswith("parts_of_a_test")]:
        del sys.modules[name]


def test_a_plugin_is_imported_by_name_and_when_listed(plugins) -> None:
    registry = plugins(mine=FILE, other=FILE.replace('"mine"', '"other"'))
    assert "nothing" not in registry
    assert "parts_of_a_test.mine" not in sys.modules
    assert registry["mine"].title == "Mine"
    assert "parts_of_a_test.other" not in sys.modules
    assert sorted(registry) == ["mine", "other"]
    assert registry.origin("mine") == "parts_of_a_test.mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_thing", "ModuleNotFoundError"),
        (FILE.replace("@dataclass(frozen=True)\n", ""), "not a dataclass"),
        (FILE.replace('"mine"', '"thine"'), "'thine'"),
        ("", "AttributeError"),
    ],
)
def test_a_broken_plugin_is_a_warning_when_listed_and_an_error_by_name(
    plugins, text, words
) -> None:
    registry = plugins(mine=text, other=FILE.replace('"mine"', '"other"'))
    with pytest.warns(UserWarning, match=f"'mine' of parts_of_a_test.mine.*{words}"):
        assert "other" in sorted(registry)
    with pytest.raises(WordmaskError, match=words):
        registry.resolve("mine")
    with pytest.raises(WordmaskError, match=words):
        _ = "mine" in registry
    assert registry["other"].name == "other"


def test_a_plugin_takes_no_name_of_ours_nor_a_file_one_of_a_plugin(plugins, tmp_path) -> None:
    registry = plugins(sclip=FILE.replace('"mine"', '"sclip"'), mine=FILE)
    registry.register(Sclip)
    assert registry["sclip"] is Sclip
    with pytest.warns(UserWarning, match=r"'sclip', which wordmask has"):
        assert set(registry) == {"sclip", "mine"}
    text = write(tmp_path / "my.py", FILE.replace("@register", ""))
    with pytest.raises(WordmaskError, match=r"'mine', which the installed package parts_of_a_test"):
        registry.resolve(text)


# -- what code it is ----------------------------------------------------------------------------


def digest(text: str) -> str:
    """The digest in a new process."""
    code = "import sys; from wordmask.methods import METHODS; from wordmask.user_code import *\n"
    code += "print(source_digest(METHODS.resolve(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, text],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_our_own_parts_have_no_digest() -> None:
    for one in (*METHODS.values(), *REFINERS.values(), *BENCHMARKS.values(), Sclip()):
        assert source_digest(one) is None


def test_the_digest_changes_with_the_file_and_what_it_imports_and_not_else(tmp_path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").write_text("from .deep import DEPTH\n")
    (tmp_path / "tools" / "deep.py").write_text("DEPTH = 3\n")
    (tmp_path / "unused.py").write_text("")
    text = write(tmp_path / "my.py", FILE + "    def need(self, depth):\n        import tools\n")
    first = digest(text)
    assert len(first) == 24
    (tmp_path / "unused.py").write_text("A = 1\n")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("my.py", "tools"):
        (tmp_path / name).rename(moved / name)
    text = f"{moved}/my.py:Mine"
    assert digest(text) == first
    (moved / "tools" / "deep.py").write_text("DEPTH = 4\n")
    second = digest(text)
    assert second != first
    write(moved / "my.py", FILE.replace("= 3", "= 4"))
    assert digest(text) not in (first, second)


def test_the_digest_of_a_package_covers_all_its_files(plugins, tmp_path) -> None:
    registry = plugins(mine=FILE)
    first = source_digest(registry["mine"])
    assert first == source_digest(registry["mine"]())
    extra = tmp_path / "parts_of_a_test" / "more.py"
    extra.write_text("A = 1\n")
    assert source_digest(registry["mine"]) != first
    extra.unlink()
    assert source_digest(registry["mine"]) == first


def test_code_that_was_edited_after_its_import_has_no_digest(tmp_path) -> None:
    (tmp_path / "neighbour_of_another.py").write_text("DEPTH = 3\n")
    text = write(tmp_path / "my.py", "from neighbour_of_another import DEPTH\n" + FILE)
    one = METHODS.resolve(text)
    first = source_digest(one)
    (tmp_path / "neighbour_of_another.py").write_text("DEPTH = 4\n")
    with pytest.raises(WordmaskError, match=r"neighbour_of_another.py was edited after"):
        source_digest(one)
    (tmp_path / "neighbour_of_another.py").write_text("DEPTH = 3\n")
    assert source_digest(one) == first


def test_without_a_file_the_compiled_code_counts() -> None:
    def run(source: str) -> str:
        code = f"{source}\nfrom wordmask.user_code import source_digest\nprint(source_digest(Mine))"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    source = (
        FILE
        + """
    def need(self, depth):
        return [helper(x) for x in range(depth)]
SCALE = 3
def helper(x):
    return x * SCALE in {"a", "b", "c"}
"""
    )
    first = run(source)
    assert run(source) == run("# remark\n" + source) == first
    others = {
        run(source.replace(*change))
        for change in (
            ("x * SCALE", "x + SCALE"),
            ("SCALE = 3", "SCALE = 4"),
            ("range(depth)", "range(depth + 1)"),
            ("depth: int = 3", "depth: int = 4"),
            ('{"depth": 1}', '{"depth": 2}'),
        )
    }
    assert len(others | {first}) == 6


def test_parts_in_a_file_reach_spawned_processes(tmp_path) -> None:
    text = write(tmp_path / "my.py")
    code = f"""
import multiprocessing
from wordmask.methods import create_method
def work(text):
    return create_method(text)[0].options()["depth"]
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(work, [{text!r}]))
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[3]"


def test_options_say_which_networks_they_use() -> None:
    assert Sclip().networks == ()
    assert create_method("proxyclip")[0].networks == ("vfm",)
    assert dataclasses.fields(Sclip)  # a property is no option
