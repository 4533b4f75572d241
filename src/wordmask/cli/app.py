"""`wordmask app`: the page."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import typer

from wordmask.cli.groups import MODEL, SOURCE, NetworkOptions, expand, whole_number
from wordmask.errors import WordmaskError
from wordmask.extras import need

PAGE = "Page"


@expand
def app(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="SOURCE",
            envvar="WORDMASK_MODEL",
            help=f"A CLIP in transformers format: {SOURCE}.",
            show_default="one in the hub's cache, else the built-in network",
            rich_help_panel=MODEL,
        ),
    ] = None,
    *,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="cpu, cuda, cuda:1, mps ...",
            show_default="a GPU if there is one",
            rich_help_panel=MODEL,
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Download nothing; use local files.", rich_help_panel=MODEL),
    ] = False,
    networks: NetworkOptions,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Where it is served; 0.0.0.0 for all who reach this machine.",
            rich_help_panel=PAGE,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            parser=whole_number,
            metavar="NUMBER",
            show_default="the first free one from 7860 on",
            rich_help_panel=PAGE,
        ),
    ] = None,
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help="Also at a public address, through gradio's servers, for a week.",
            rich_help_panel=PAGE,
        ),
    ] = False,
    browser: Annotated[
        bool, typer.Option("--open", help="Open it in the browser.", rich_help_panel=PAGE)
    ] = False,
) -> None:
    """Open a page in the browser: pictures and words in, masks out.

    wordmask app --open

    Nothing leaves this machine unless you ask for --share. Folders, files and other networks can be
    chosen on the page only while it is served to this machine alone.
    """
    need("gradio", "app", "the page")
    from wordmask.app.engine import Engine
    from wordmask.app.page import launch

    local = is_loopback(host) and not share
    engine = Engine(model, networks.sources, device=device, offline=offline, local=local)
    try:
        page, address = launch(engine, host, port, share=share, browser=browser, block=False)
    except OSError as error:
        raise WordmaskError(f"cannot serve the page on {host}: {error}") from None
    print(f"wordmask is at {page.share_url or address} with {engine.model}; Ctrl+C ends it")
    page.block_thread()


def is_loopback(host: str) -> bool:
    """Whether an address reaches nobody but this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
