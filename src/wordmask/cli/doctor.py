"""`wordmask doctor`: what this machine has and lacks, the first thing that a bug report needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordmask.cli import common
from wordmask.cli.groups import DEFAULT_MODEL, expand

if TYPE_CHECKING:
    from rich.table import Table

STYLES = {"ok": "green", "broken": "bold red", "fails": "red", "partial": "yellow"}
TO_DO = ("broken", "fails", "partial")  # in this order


@expand
def doctor(
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the hub.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what works on this machine, what is missing, and what to do.

    It looks at devices, packages, checkpoints, caches and the network.

    Nothing is downloaded or changed, and no token or password is shown: the output can be pasted
    into a bug report. Exit code 2: something that wordmask needs is broken.
    """
    with common.busy("examining this machine"):
        from wordmask.doctor import examine

        report = examine(DEFAULT_MODEL, offline=offline)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _print(report)
    if not report["works"]:
        raise typer.Exit(2)


def _print(report: dict[str, Any]) -> None:
    sections = {name: found for name, found in report.items() if isinstance(found, list)}
    console = common.console()
    console.print(f"wordmask {report['wordmask']}", style="bold")
    for name, found in sections.items():
        console.print(f"\n{name}", style="bold")
        console.print(_table(found))
    works = "All that wordmask needs works." if report["works"] else "Something is broken."
    console.print(f"\n{works}", style="bold")
    for state in TO_DO:
        for name, found in sections.items():
            for one in found:
                if one["state"] == state and one["todo"]:
                    line = f"{state:8}{name[:-1] if name.endswith('s') else name}"
                    console.print(f"{line} {one['name']}: {one['todo']}", soft_wrap=True)
    for name, found in sections.items():
        absent = [one for one in found if one["state"] == "absent" and one["todo"]]
        if absent:
            line = f"absent  {name} are optional; {absent[0]['name']}: {absent[0]['todo']}"
            console.print(line, soft_wrap=True)


def _table(found: list[dict[str, Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, min_width=7)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for one in found:
        table.add_row(Text(one["state"], STYLES.get(one["state"], "dim")), one["name"], one["text"])
    return table
