"""Where tests find golden vectors, and real data where it is at hand."""

from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared"  # real data of the developers, absent elsewhere
