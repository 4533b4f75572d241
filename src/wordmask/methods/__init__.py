"""The methods, one file for each paper. Importing this package registers them all.

It also exports what a method in a file of your own needs, see docs/extending.md.
"""

from wordmask.encoding import DenseFeatures, Encoding
from wordmask.methods import (
    car,
    clearclip,
    clip,
    clip_es,
    clip_surgery,
    cliper,
    cliptrase,
    gem,
    maskclip,
    naclip,
    pearl,
    proxyclip,
    resclip,
    rf_clip,
    sc_clip,
    sclip,
)
from wordmask.methods.base import (
    METHODS,
    Method,
    Towers,
    cosine,
    create_method,
    finish_block,
    list_methods,
    parse_option,
    read_method,
    register,
    to_grid,
)
from wordmask.towers.clip import ClipTower, Need, Trace

__all__ = [
    "METHODS",
    "ClipTower",
    "DenseFeatures",
    "Encoding",
    "Method",
    "Need",
    "Towers",
    "Trace",
    "car",
    "clearclip",
    "clip",
    "clip_es",
    "clip_surgery",
    "cliper",
    "cliptrase",
    "cosine",
    "create_method",
    "finish_block",
    "gem",
    "list_methods",
    "maskclip",
    "naclip",
    "parse_option",
    "pearl",
    "proxyclip",
    "read_method",
    "register",
    "resclip",
    "rf_clip",
    "sc_clip",
    "sclip",
    "to_grid",
]
