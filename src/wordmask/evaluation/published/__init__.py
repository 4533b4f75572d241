"""Published numbers: the papers' tables, matched with our runs of the same setting."""

from wordmask.evaluation.published.commands import list_commands
from wordmask.evaluation.published.lookup import Reported, find_reported, same_setting, same_weights
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
    "find_reported",
    "list_commands",
    "read_tables",
    "same_setting",
    "same_weights",
]
