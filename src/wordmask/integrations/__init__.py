"""wordmask inside other programs, one file for each; none is imported before it is used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wordmask.errors import unknown

SERVED = ("label-studio", "x-anylabeling", "samgeo")  # tools that ask a service of wordmask's


def routers(
    tools: Sequence[str],
    method: str,
    background: str = "auto",
    label_studio: str | None = None,
    label_studio_files: Path | None = None,
) -> list[Any]:
    """The routes of annotation tools, for `wordmask.serve.app.create_app`.

    Args:
        tools: names of `SERVED`.
        method: that the service is started with.
        background: as on the command line, where a tool does not say.
        label_studio: the address of Label Studio, from which uploaded pictures are fetched with the
            token in $LABEL_STUDIO_API_KEY; None: nothing is fetched.
        label_studio_files: its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, if it is on this machine.

    Raises:
        WordmaskError: an unknown tool, or one whose package is not installed.
    """
    made = []
    for tool in dict.fromkeys(tools):
        if tool not in SERVED:
            raise unknown("tool", tool, SERVED)
        if tool == "label-studio":
            from wordmask.integrations import label_studio as studio

            token = os.environ.get("LABEL_STUDIO_API_KEY", "")
            made.append(studio.router(label_studio, token, label_studio_files, background))
        elif tool == "x-anylabeling":
            from wordmask.integrations import x_anylabeling

            made.append(x_anylabeling.router(method, background))
        else:
            from wordmask.integrations import samgeo

            made.append(samgeo.router(method, background))
    return made
