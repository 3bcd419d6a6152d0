"""How long `moebench ls methods` takes, as a whole process: the price of asking the suite anything.

    python benchmarks/start_up.py [--runs 7]

The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

COMMANDS = (["--help"], ["ls", "methods"], ["ls", "tasks"], ["ls", "presets"])


def main() -> None:
    """Time each command in fresh processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {" ".join(words): [] for words in COMMANDS}
    for _ in range(options.runs + 1):
        for words in COMMANDS:
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "bench.cli", *words], check=True, capture_output=True)
            seconds[" ".join(words)].append(time.perf_counter() - started)
    medians = {
        name: statistics.median(found[1:]) for name, found in seconds.items()
    }  # the first fills caches
    for name, median in medians.items():
        print(f"moebench {name:12} {median:.2f} s")
    print(
        json.dumps({"benchmark": "start_up", "runs": options.runs, "median_seconds": medians, "target": 0.5})
    )


if __name__ == "__main__":
    main()
