"""Published numbers: the papers' tables, and which of our runs each compares with."""

from wordmask.evaluation.published.commands import commands
from wordmask.evaluation.published.lookup import Reported, lookup, same_setting, same_weights
from wordmask.evaluation.published.tables import (
    EIGHT,
    METRICS,
    NETWORKS,
    TABLES,
    Column,
    Row,
    Setting,
    Table,
    read_tables,
)

__all__ = [
    "EIGHT",
    "METRICS",
    "NETWORKS",
    "TABLES",
    "Column",
    "Reported",
    "Row",
    "Setting",
    "Table",
    "commands",
    "lookup",
    "read_tables",
    "same_setting",
    "same_weights",
]
