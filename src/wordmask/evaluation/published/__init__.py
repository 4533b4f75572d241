"""Published numbers, and which run of ours stands beside each."""

from wordmask.evaluation.published.tables import (
    EIGHT,
    METRICS,
    TABLES,
    Column,
    Number,
    Row,
    Run,
    Table,
    command,
    lookup,
    same_setting,
    same_weights,
)

__all__ = [
    "EIGHT",
    "METRICS",
    "TABLES",
    "Column",
    "Number",
    "Row",
    "Run",
    "Table",
    "command",
    "lookup",
    "same_setting",
    "same_weights",
]
