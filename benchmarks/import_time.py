"""How long `from wordmask import Segmenter` takes, and whose modules take it.

    python benchmarks/import_time.py [--rounds 10] [--most 12]

Each round is a process of its own, with files that are in the cache and compiled: one untimed round
sees to it. Times are CPU seconds of the process, the least and the median. A last round with
`-X importtime` says which packages take them.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import sys
from collections import Counter
from subprocess import run

STATEMENTS = ("pass", "import numpy", "import torch", "from wordmask import Segmenter")


def seconds(statement: str) -> float:
    """CPU seconds of a Python process that runs one statement."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run([sys.executable, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def by_package(statement: str) -> Counter[str]:
    """Milliseconds in the modules of each package themselves, by `-X importtime`."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    text = run(command, check=True, capture_output=True, text=True).stderr
    found: Counter[str] = Counter()
    for own, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\w+)", text):
        found[name] += int(own) / 1000
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--most", type=int, default=12, help="packages that are listed")
    parser.add_argument("--statement", action="append", help="in place of those compared")
    given = parser.parse_args()
    statements = given.statement or STATEMENTS
    for statement in statements:
        seconds(statement)
        times = [seconds(statement) for _ in range(given.rounds)]
        print(f"{statement}: least {min(times):.2f} s, median {statistics.median(times):.2f} s")
    print(f"{statements[-1]}, by package:")
    for name, milliseconds in by_package(statements[-1]).most_common(given.most):
        print(f"  {name}: {milliseconds:.0f} ms")


if __name__ == "__main__":
    main()
