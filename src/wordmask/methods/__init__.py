"""The methods, one paper a file. Importing this package registers them all."""

from wordmask.methods import (
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
from wordmask.methods.base import METHODS, Method, create_method, parse_option, register

__all__ = [
    "METHODS",
    "Method",
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
    "register",
    "sclip",
]
