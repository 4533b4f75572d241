"""`wordmask methods`: list the methods, or show one in full."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmask.cli import common, complete

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from wordmask.options import Options
    from wordmask.registry import Registry


def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Show one in full, also FILE.py:NAME.",
            show_default=False,
            autocompletion=complete.method_name,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the methods, or show the variants and options of one."""
    from wordmask.methods import METHODS, Method

    show(METHODS, Method, name, as_json)


def show(registry: Registry[Any], base: type[Options], name: str | None, as_json: bool) -> None:
    """Print an overview of a registry, or one of its classes in full.

    Args:
        registry: classes by name.
        base: the class with the options that they share.
        name: one of them, or `FILE.py:NAME`; None for an overview.
        as_json: print JSON and not a table.
    """
    from wordmask.options import describe

    kind = registry.kind
    chosen = registry if name is None else [registry.resolve(name).name]
    described = [
        describe(registry[one], base) | {"from": registry.origin(one)} for one in sorted(chosen)
    ]
    if as_json:
        plain = described if name is None else described[0]
        print(json.dumps(plain, indent=2, ensure_ascii=False))
    elif name is None:
        console = common.console()
        console.print(_overview(kind, described, console.width))
        console.print(
            f"The first variant is the default. needs: a model besides CLIP. Options of one: "
            f"wordmask {kind}s NAME",
            style="dim",
        )
    else:
        _print_one(kind, name, described[0], common.console())


def _overview(kind: str, described: list[dict[str, Any]], width: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True)
    table.add_column(kind, style="bold", no_wrap=True)
    table.add_column("what it does, and its paper")
    wide = width >= 100
    if wide:
        table.add_column("needs", no_wrap=True)
        table.add_column("variants", max_width=24)
    for one in described:
        text = Text(one["summary"])
        text.append(f"\n{one['paper']}", "dim")
        if one["from"] != "wordmask":
            text.append(f"\nfrom {one['from']}")
        needs, variants = one["network"].replace("none", ""), ", ".join(one["variants"])
        if not wide:
            text.append(f"\n{f'needs: {needs}; ' if needs else ''}variants: {variants}", "dim")
        table.add_row(one["name"], text, *((needs, variants) if wide else ()))
    return table


def _print_one(kind: str, name: str, one: dict[str, Any], console: Console) -> None:
    from rich import box
    from rich.padding import Padding
    from rich.table import Table

    console.print(one["paper"], style="bold")
    for paragraph in one["description"]:
        if paragraph.startswith("- "):
            bullet = Table.grid(padding=(0, 1))
            bullet.add_row(" -", paragraph.removeprefix("- "))
            console.print(bullet)
        else:
            console.print(Padding(paragraph, (1, 0, 0, 0)))
    if one["from"] != "wordmask":
        console.print(f"\nFrom {one['from']}.")
    console.print(f"\nAuxiliary model: {one['network']}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("variant", style="bold", no_wrap=True)
    table.add_column("options that it sets")
    for number, (variant, changes) in enumerate(one["variants"].items()):
        sets = "  ".join(f"{name}={_value(value)}" for name, value in changes.items())
        table.add_row(variant, ("(default)  " if number == 0 else "") + sets)
    console.print(table)
    for is_common in (False, True):
        options = [option for option in one["options"] if option["common"] is is_common]
        if options:
            console.print(_option_table(options, is_common))
    owner = f"{one['name']}." if kind == "refiner" else ""
    chosen = f"--{'refine' if kind == 'refiner' else kind} {name}"
    console.print(f"Set options with {chosen} --set {owner}option=value", style="dim")


def _option_table(options: list[dict[str, Any]], is_common: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("option of every method" if is_common else "own option", style="bold")
    table.add_column("what it does, and its values")
    for option in options:
        text = Text(option["description"])
        text.append(f"\n{option['type']}", "dim")
        table.add_row(_assignment(option), text)
    return table


def _assignment(option: dict[str, Any]) -> str:
    return f"{option['name']}={_value(option['default'])}"


def _value(value: Any) -> str:
    """A value as `--set` takes it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)
