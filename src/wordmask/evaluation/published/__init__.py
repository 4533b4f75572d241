"""Published numbers: the papers' tables, matched with our runs of the same setting."""

from wordmask.evaluation.published.commands import list_commands
from wordmask.evaluation.published.lookup import (
    Reported,
    RunState,
    differing,
    find_near,
    find_reported,
    match,
    same_source,
)
from wordmask.evaluation.published.tables import (
    COSTS,
    EIGHT,
    MEANS,
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
    "COSTS",
    "EIGHT",
    "MEANS",
    "METRICS",
    "NETWORKS",
    "TABLES",
    "Column",
    "Reported",
    "Row",
    "RunState",
    "Setting",
    "Table",
    "differing",
    "find_near",
    "find_reported",
    "list_commands",
    "match",
    "read_tables",
    "same_source",
]
