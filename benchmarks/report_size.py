"""How long 10,000 records take to become the full set of tables, figures and the page, and how much memory.

    python benchmarks/report_size.py [--tasks 10 --methods 20 --seeds 10 --workloads 4]

The committed quickstart is multiplied out: its records and predictions under new tasks, methods, seeds and workloads.
The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from itertools import product
from pathlib import Path

from reports import write
from results.frame import load
from results.record import CellRecord, LatencyRecord
from results.store import RunFolder

QUICKSTART = Path(__file__).parent.parent / "results" / "campaigns" / "quickstart"
TARGET = {"seconds": 20, "bytes": 1.5e9}


def main() -> None:
    """Multiply the records out and time reading and reporting them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("tasks", 10), ("methods", 20), ("seeds", 10), ("workloads", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        records = multiply(RunFolder(run), options)
        started, before = time.perf_counter(), spent()
        frame = load(run)
        read = time.perf_counter()
        files = write(frame, Path(temporary) / "report", "many records")
        done = time.perf_counter()
        page = files[0].stat().st_size
    result = {
        "benchmark": "report_size",
        "records": records,
        "seconds": round(done - started, 1),
        "seconds_reading": round(read - started, 1),
        "processor_seconds": round(spent() - before, 1),
        "peak_memory_bytes": peak_memory(),
        "page_bytes": page,
        "target": TARGET,
    }
    for name, value in result.items():
        print(f"{name:18} {value}")
    print(json.dumps(result))


def spent() -> float:
    """Return the processor time of this process and of those that it started and that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def peak_memory() -> int:
    """Return the peak of this process and that of the largest of the others together, in bytes: more than was held."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return 1024 * sum(resource.getrusage(kind).ru_maxrss for kind in kinds)


def multiply(run: RunFolder, options: argparse.Namespace) -> int:
    """Write the quickstart's records under new names; return how many."""
    source = RunFolder(QUICKSTART)
    cells = [record for record in source.records() if isinstance(record, CellRecord)]
    timings = [record for record in source.records() if isinstance(record, LatencyRecord)]
    teacher = next(cell for cell in cells if cell.teacher_id is None)
    students = [cell for cell in cells if cell.teacher_id == teacher.id]
    environments = source.environments().values()
    for environment in environments:
        run.write_environment(environment)
    run.predictions_file("").parent.mkdir(parents=True)
    count = 0
    for task, seed in product(range(options.tasks), range(options.seeds)):
        teacher_copy = renamed(source, run, teacher, f"task-{task}", "teacher", seed, None)
        run.write(teacher_copy)
        count += 1
        for method in range(options.methods):
            original = students[method % len(students)]
            cell = renamed(source, run, original, f"task-{task}", f"method-{method}", seed, teacher_copy.id)
            run.write(cell)
            timing = next(timing for timing in timings if timing.cell_id == original.id)
            for workload in range(options.workloads):
                length = 16 * 2**workload
                run.write(
                    timing.model_copy(
                        update={
                            "id": f"{cell.id[:-1]}t{workload}",
                            "cell_id": cell.id,
                            "baseline_id": teacher_copy.id,
                            "task": cell.task,
                            "method": cell.label,
                            "label": cell.label,
                            "seed": seed,
                            "workload": timing.workload.model_copy(
                                update={"name": f"8x{length}", "batch_size": 8, "length": length}
                            ),
                        }
                    )
                )
            count += 1 + options.workloads
    return count


def renamed(
    source: RunFolder, run: RunFolder, cell: CellRecord, task: str, label: str, seed: int, teacher: str | None
) -> CellRecord:
    """Give a cell another task, label and seed; its predictions come along."""
    identity = cell.identity.model_copy(
        update={"task": cell.identity.task | {"name": task}, "method": label, "seed": seed}
    )
    copy = cell.model_copy(
        update={"id": identity.cell_id, "identity": identity, "label": label, "teacher_id": teacher}
    )
    shutil.copyfile(source.predictions_file(cell.id), run.predictions_file(copy.id))
    return copy


if __name__ == "__main__":
    main()
