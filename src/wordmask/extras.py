"""Optional packages, each of an extra of wordmask."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from wordmask.errors import WordmaskError


def need(module: str, extra: str, what: str) -> Any:
    """Import a module of an optional package.

    Raises:
        WordmaskError: it is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise WordmaskError(
            f'{what} needs {package}; install it with pip install "wordmask[{extra}]"'
        ) from None
