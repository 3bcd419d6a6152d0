"""Record the timings that the tests of ``results.timing`` replay.

``python record_timings.py NAME CHECKPOINT DATA`` writes ``recordings/NAME-<variant>-<workload>.json``. CHECKPOINT is a
folder with a BERT and its tokenizer, DATA the folder with ``glue/sst2/validation.parquet``. Timed beside the
checkpoint: itself, its first half, and all of its layers twice (a planted slowdown).
"""

from __future__ import annotations

import copy
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from bench.data import encode
from bench.latency.clock import TimingRequest, time_cells
from bench.latency.job import Setting, TimedModel
from bench.latency.workloads import Workload, streams
from bench.toys import toy_task
from results.record import LatencyRecord, WorkloadRecord

RECORDINGS = Path(__file__).parent / "recordings"
WORKLOADS = ("8x32", "8xreal")


def variants(model: PreTrainedModel) -> dict[str, PreTrainedModel]:
    """Make the models to time, by what they are called."""
    layers = list(model.base_model.encoder.layer)
    made = {}
    for name, chosen in {
        "same": layers,
        "half": layers[: len(layers) // 2],
        "double": layers + layers,
    }.items():
        made[name] = copy.deepcopy(model)
        made[name].base_model.encoder.layer = torch.nn.ModuleList(copy.deepcopy(layer) for layer in chosen)
        made[name].config.num_hidden_layers = len(chosen)
    return made


def main(name: str, checkpoint: Path, data: Path) -> None:
    """Time every variant and write one record a variant and workload."""
    torch.set_num_threads(1)
    changes = {"text": ("sentence",), "labels": ("0", "1"), "max_length": 128}
    task = toy_task("classification").model_copy(update=changes)
    rows = Dataset.from_parquet(str(data / "glue/sst2/validation.parquet"))
    encoded = encode(task, rows, AutoTokenizer.from_pretrained(checkpoint), cache=None, key="")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    with TemporaryDirectory() as folder:
        models = {}
        for variant, made in variants(model).items():
            made.save_pretrained(Path(folder) / variant)
            models[variant] = TimedModel(variant, Path(folder) / variant)
        batches = streams(map(Workload.parse, WORKLOADS), encoded, seed=0)
        request = TimingRequest(Setting(task), models["same"], tuple(models.values()), batches)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        found = time_cells(request)
    for (variant, workload), timing in found.items():
        shape = Workload.parse(workload)
        record = LatencyRecord(
            id=f"{name}-{variant}-{workload}",
            environment="recorded",
            suite_version="0.1.0",
            started=started,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            warnings=list(timing.warnings),
            status=timing.status,
            reason=timing.reason,
            cell_id=variant,
            baseline_id="same",
            task="sst2",
            method=variant,
            label=variant,
            seed=0,
            workload=WorkloadRecord(name=workload, batch_size=shape.batch_size, length=shape.length),
            runtime="eager",
            device="cpu",
            dtype="fp32",
            threads=1,
            repeats=list(timing.repeats),
        )
        (RECORDINGS / f"{record.id}.json").write_text(record.model_dump_json(indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
