"""Reports over several runs: tables, the papers' tables with our column, plots and a page."""

from __future__ import annotations

from pathlib import Path

from wordmask.evaluation.report import page, plots
from wordmask.evaluation.report.runs import read_runs
from wordmask.evaluation.report.tables import own_tables, paper_tables
from wordmask.files import write_atomically


def report(folder: Path, partial: bool = False) -> dict[str, Path]:
    """Write report.md, report.html and plots/ into a folder, from all runs below it.

    Args:
        folder: the folder of the runs; the report is written there too.
        partial: include incomplete data sets in the papers' tables, marked.

    Returns:
        The files by name.

    Raises:
        WordmaskError: no runs, or no matplotlib for the plots.
    """
    runs = read_runs(folder)
    drawn = plots.draw(runs, folder / "plots")
    parts = [*own_tables(runs), *paper_tables(runs, partial)]
    text = "# Report\n\n" + "\n\n".join(part.markdown() for part in parts) + "\n"
    if drawn:
        text += "\n## Plots\n\n"
        text += "\n".join(f"![{title}](plots/{path.name})\n" for title, path in drawn)
    files = {"report.md": folder / "report.md", "report.html": folder / "report.html"}
    write_atomically(files["report.md"], lambda file: file.write(text.encode()))
    html = page.render(parts, drawn, page.read_pictures(found.folder for found in runs))
    write_atomically(files["report.html"], lambda file: file.write(html.encode()))
    return files | {path.name: path for _, path in drawn}
