"""Protocols: every setting that a number depends on, as data that can be printed and changed."""

from wordmask.evaluation.protocols.protocol import (
    BACKBONES,
    FIELDS,
    PROTOCOLS,
    Entry,
    Protocol,
    crop_size,
    make_protocol,
    read_assignments,
    read_background,
    write,
)

__all__ = [
    "BACKBONES",
    "FIELDS",
    "PROTOCOLS",
    "Entry",
    "Protocol",
    "crop_size",
    "make_protocol",
    "read_assignments",
    "read_background",
    "write",
]
