"""The version of wordmask, and of what it runs on."""

import platform
from functools import cache
from importlib.metadata import version

__version__ = "0.1.0"


@cache
def _version(package: str) -> str:
    return version(package)


def versions(*packages: str) -> dict[str, str]:
    """The versions of packages by name; "python" is Python's own."""
    own = {"wordmask": __version__, "python": platform.python_version()}
    return {name: own.get(name) or _version(name) for name in packages}
