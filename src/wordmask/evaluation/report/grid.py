"""A table of a report, and its forms: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from wordmask.evaluation.markdown import markdown_table

LONG = 45  # rows of a table that LaTeX breaks over pages
ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "†": r"\dag{}",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """A table: a title, heads, rows of texts, and a note; heads `ours` mark our columns.

    Attributes:
        words: heads of the columns of words, besides the first; all others hold numbers.
        folded: whether a page shows it closed, to be opened.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    words: tuple[str, ...] = ()
    folded: bool = False

    @property
    def slug(self) -> str:
        """The title as the name of a file, with a digest of it where it is cut."""
        name = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")
        digest = hashlib.blake2b(self.title.encode(), digest_size=3).hexdigest()
        return name if len(name) <= 60 else f"{name[:60]}-{digest}"

    @property
    def texts(self) -> list[bool]:
        """Of every column, whether it holds words."""
        return [i == 0 or head in self.words for i, head in enumerate(self.heads)]

    def markdown(self) -> str:
        """As Markdown, with its title and note."""
        lines = markdown_table(self.heads, self.rows, (self.heads[0], *self.words))
        return "\n".join([f"## {self.title}", "", *lines, *(["", self.note] if self.note else [])])

    def csv(self) -> str:
        """As CSV, the heads first, without title and note."""
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([self.heads, *self.rows])
        return file.getvalue()

    def latex(self) -> str:
        """As LaTeX with the package booktabs, a `longtable` if it has many rows; note above it."""
        columns = "".join("l" if words else "r" for words in self.texts)
        kind = "longtable" if len(self.rows) > LONG else "tabular"
        lines = [f"% {line}" for line in (self.title, self.note) if line]
        lines += [rf"\begin{{{kind}}}{{@{{}}{columns}@{{}}}}", r"\toprule", _row(self.heads)]
        lines += [r"\midrule", *([r"\endhead"] if kind == "longtable" else [])]
        lines += [*map(_row, self.rows), r"\bottomrule", rf"\end{{{kind}}}"]
        return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """A text for LaTeX; backticks of Markdown are dropped."""
    escaped = "".join(ESCAPES.get(sign, sign) for sign in text.replace("`", ""))
    return escaped.replace("--", "-{}-")  # two of them would be set as a dash


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"


def latex_document(
    own: Sequence[Grid], figures: Sequence[tuple[str, str]], papers: Sequence[Grid]
) -> str:
    """A document of our own tables, figures, and the papers' tables, in tables/ and plots/."""
    lines = [
        r"\documentclass[10pt]{article}",
        r"\usepackage[a4paper,landscape,margin=18mm]{geometry}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage{booktabs,graphicx,longtable}",
        r"\setlength{\parindent}{0pt}",
        r"\newcommand{\fit}[1]{\sbox0{#1}\ifdim\wd0>\linewidth"
        r"\resizebox{\linewidth}{!}{\copy0}\else\copy0\fi}",
        r"\begin{document}",
        *(line for grid in own for line in _section(grid)),
    ]
    for title, name in figures:
        lines += [r"\section*{" + escape_latex(title) + "}"]
        lines += [rf"\fit{{\includegraphics{{plots/{name}}}}}"]
    lines += [line for grid in papers for line in _section(grid)]
    return "\n".join([*lines, r"\end{document}"]) + "\n"


def _section(grid: Grid) -> list[str]:
    table = rf"\input{{tables/{grid.slug}.tex}}"
    shown = rf"\fit{{{table}}}" if len(grid.rows) <= LONG else table
    note = [r"\par\smallskip " + escape_latex(grid.note)] if grid.note else []
    return [r"\section*{" + escape_latex(grid.title) + "}", r"{\small", shown, *note, "}"]
