"""`wordmask mcp`: pictures and words for an assistant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wordmask.cli.groups import ModelOptions, RefinedMethodOptions, expand


@expand
def mcp(
    method: RefinedMethodOptions,
    model: ModelOptions,
    root: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Pictures are read and written in this folder only.",
            show_default="the current folder",
            rich_help_panel="Server",
        ),
    ] = Path(),
) -> None:
    """Serve an assistant over the Model Context Protocol.

    wordmask mcp --root ~/Pictures

    The assistant starts this command itself; its settings name it. It gets the tools segment,
    explain_picture and list_methods, and sees no other folder than --root.
    """
    from wordmask.errors import WordmaskError
    from wordmask.extras import need

    need("mcp.server", "mcp", "a server for assistants")
    if not root.is_dir():
        raise WordmaskError(f"got --root {root}, which is no folder")
    from wordmask.integrations.mcp import server

    built, variant = method.read(model.model)
    segmenter = model.load(built, variant, method.read_refiners())
    server(segmenter, root).run("stdio")
