"""How `--help` shows commands: a flag takes no value, paragraphs flow, an argument has one name."""

from __future__ import annotations

import inspect
import re
from functools import partial
from typing import Any

from typer.core import TyperCommand, TyperGroup


class _Plain:
    """Drops from typer's help what says nothing to whoever types the command."""

    def __init__(self, *arguments: Any, **settings: Any):
        text = inspect.cleandoc(settings.get("help") or "")
        settings["help"] = re.sub(r"(?<!\n)\n(?!\n)", " ", text) or None
        super().__init__(*arguments, **settings)

    def get_params(self, context: Any) -> list[Any]:
        found = super().get_params(context)  # type: ignore[misc]
        for one in found:
            if getattr(one, "is_flag", False):
                one.metavar = ""  # not "<bool>"
            elif one.param_type_name == "argument":
                one.display_type_rich = lambda ctx: ""  # its name is enough
                one.get_usage_pieces = partial(_usage, one)
        return found


def _usage(argument: Any, context: Any) -> list[str]:
    """`NAME`, `NAME...` and `[NAME]` in the line of usage, not `{NAME}`."""
    name = argument.metavar + ("" if argument.nargs == 1 else "...")
    return [name if argument.required else f"[{name}]"]


class Command(_Plain, TyperCommand):
    """A command."""


class Group(_Plain, TyperGroup):
    """A command with commands."""
