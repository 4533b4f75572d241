"""The methods, one paper a file. Importing this package registers them all."""

from wordmask.methods import (
    car,
    clearclip,
    clip,
    clip_surgery,
    cliper,
    cliptrase,
    gem,
    maskclip,
    naclip,
    proxyclip,
    sclip,
)
from wordmask.methods.base import (
    METHODS,
    Method,
    create_method,
    parse_option,
    read_method,
    register,
)

__all__ = [
    "METHODS",
    "Method",
    "car",
    "clearclip",
    "clip",
    "clip_surgery",
    "cliper",
    "cliptrase",
    "create_method",
    "gem",
    "maskclip",
    "naclip",
    "parse_option",
    "proxyclip",
    "read_method",
    "register",
    "sclip",
]
