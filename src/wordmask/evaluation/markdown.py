"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def markdown_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[str]
) -> list[str]:
    """Lines of a Markdown table; columns with a head in `words` are left-aligned, others right.

    >>> markdown_table(["method", "mIoU"], [["clip", "16.4"]], ["method"])
    ['| method | mIoU |', '|---|--:|', '| clip | 16.4 |']
    """
    ruler = "".join("---|" if head in words else "--:|" for head in heads)
    return [_line(heads), f"|{ruler}", *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
