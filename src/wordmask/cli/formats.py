"""`wordmask formats`: what results can be written as."""

from __future__ import annotations

from wordmask.cli import common


def formats() -> None:
    """List the formats of results."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from wordmask.formats import FORMATS, split_formats

    for title, kind in zip(
        ("each picture", "the whole folder"), split_formats(FORMATS), strict=True
    ):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("format", no_wrap=True)
        table.add_column(f"for {title}", no_wrap=True)
        table.add_column("what it is", overflow="fold")
        for one in kind:
            files = ("NAME" if title == "each picture" else "") + one.suffix
            extra = f"; needs wordmask[{one.extra}]" if one.extra else ""
            table.add_row(one.name, files, Text(one.help).append(extra, "dim"))
        common.console().print(table)
