"""The command line `wordmask`: one command, one file, none of which loads torch before it runs.

Exit codes: 0 success, 1 pictures were left out (`--on-error skip`), 2 input or output that cannot
be used, with one line that says why, 130 interrupted.
"""

from __future__ import annotations

import io
import sys
import warnings
from typing import Annotated, Any

import typer

from wordmask.cli import app as page
from wordmask.cli import (
    bench,
    compare,
    convert,
    datasets,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    formats,
    large,
    mcp,
    methods,
    protocol,
    refiners,
    report,
    segment,
    selftest,
    serve,
)
from wordmask.cli.common import one_line
from wordmask.cli.help import Command, Group
from wordmask.errors import NO_TORCH, WordmaskError, is_out_of_memory
from wordmask.version import __version__

app = typer.Typer(
    name="wordmask",
    cls=Group,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = {
    "Begin": (demo.demo, page.app, segment.segment, doctor.doctor),
    "Results, and large pictures": (formats.formats, convert.convert, large.large),
    "Methods": (methods.methods, refiners.refiners, compare.compare, explain.explain),
    "Numbers": (
        evaluate.evaluate,
        report.report,
        protocol.protocol,
        selftest.selftest,
        bench.bench,
    ),
    "Other programs": (serve.serve, mcp.mcp, export.export),
}
for panel, commands in COMMANDS.items():
    for one in commands:
        app.command(cls=Command, rich_help_panel=panel)(one)
app.add_typer(datasets.app, name="datasets", rich_help_panel="Numbers")

UsageError: type[Any] = typer.BadParameter.__bases__[0]  # of the click that typer uses


@app.callback(invoke_without_command=True)
def _wordmask(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Words in, masks out: label photographs by any words, with a frozen CLIP and no training."""
    if version:
        print(f"wordmask {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main() -> None:
    """Run the command line with the arguments of the process."""
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; every error is one line on stderr.

    Args:
        arguments: what follows `wordmask`; None takes the arguments of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # terminals may lack letters of class names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UserWarning)  # hides warnings meant for developers
        warnings.showwarning = _show_warning
        try:
            code = app(args=arguments, prog_name="wordmask", standalone_mode=False)
        except (KeyboardInterrupt, typer.Abort):
            return _say("interrupted", 130)
        except UsageError as error:
            command = error.ctx.command_path if error.ctx else "wordmask"
            return _say(f"error: {error.format_message()} (see {command} --help)")
        except (WordmaskError, OSError) as error:
            return _say(f"error: {error}")
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            return _say(f"error: {NO_TORCH}")
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return _say("error: there is not enough memory; try a smaller short_side")
    if code == 130:  # newer versions of typer return this if interrupted
        return _say("interrupted", 130)
    return code if isinstance(code, int) else 0


def _say(message: str, code: int = 2) -> int:
    print(f"wordmask: {one_line(message)}", file=sys.stderr)
    return code


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"wordmask: warning: {one_line(str(message))}", file=sys.stderr)
