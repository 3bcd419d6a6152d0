"""The timed process: ``python -m bench.latency.worker FOLDER RUNTIME METHOD…`` does one job and leaves.

It imports what the runtime and the methods need, says that it is ready, and waits for a line. By then FOLDER holds
``job.json`` and ``batches.safetensors``; the answer is written to ``answer.json`` beside them. The clock sets the
number of threads in the environment, before Python starts.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from bench.latency.energy import energy_mj
from bench.latency.interleave import describe, interleave, stopwatch_for
from bench.latency.job import ANSWER, JOB, READY, TEACHER, Answer, MemoryJob, Sample, TimeJob, read_batches
from bench.latency.workloads import Inputs, Workload
from bench.memory import peak_memory_bytes, reset_peak_memory
from bench.registry import methods, runtimes
from results.record import Repeat

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.latency.job import Setting, Status, TimedModel
    from bench.latency.runtimes import Run, Runtime
    from bench.method import Method
    from results.record import Dtype

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FORGOTTEN = 1.05  # a peak that was reset is what is resident now, or little more
CORES = Path("/sys/devices/system/cpu")


def main(folder: Path, runtime: str, *names: str) -> None:
    """Start up and do the job in a folder."""
    _start_up(runtime, names)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    if not os.read(sys.stdin.fileno(), 1):  # nobody will ask
        return
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    job = JOB.validate_json((folder / "job.json").read_bytes())
    torch.set_num_threads(job.setting.threads)
    torch.set_num_interop_threads(1)
    set_precision(job.setting.dtype)
    batches = {
        workload: [
            {name: tensor.to(job.setting.device) for name, tensor in batch.items()} for batch in listed
        ]
        for workload, listed in read_batches(folder / "batches.safetensors").items()
    }
    answer = _time(job, batches) if isinstance(job, TimeJob) else _weigh(job, batches)
    (folder / "answer.json").write_bytes(ANSWER.dump_json(answer))


def _start_up(runtime: str, names: tuple[str, ...]) -> None:
    """Import what a job will need; where that fails, the job says so of the model concerned."""
    import_module("transformers.modeling_utils")  # what takes most of the time
    with suppress(Exception):
        runtimes.get(runtime)
    for name in names:
        with suppress(Exception):
            methods.get(name)


def set_precision(dtype: Dtype) -> None:
    """Let products of fp32 round their operands to TF32, or keep them from it."""
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")


def _leave_with_parent() -> None:
    """Wait, blocked, until the parent closes its end: an orphan must not go on loading the machine."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _time(job: TimeJob, batches: dict[str, list[Inputs]]) -> Answer:
    runtime = runtimes.get(job.setting.runtime)()
    skip = runtime.supports(torch.device(job.setting.device))
    if skip is not None:
        return Answer(tuple(Sample(*point, "skipped", skip.reason) for point in job.points))
    baseline = _load(job.baseline, job.setting)
    candidates = {model.id: _load(model, job.setting) for model in job.candidates}
    samples: list[Sample] = []
    for workload, listed in batches.items():
        chosen = {name: loaded for name, loaded in candidates.items() if (name, workload) in job.points}
        samples += _time_workload(Workload.parse(workload), listed, runtime, baseline, chosen, job)
    return Answer(tuple(samples))


@dataclass(frozen=True)
class _Contender:
    """The baseline or a candidate with its weights read."""

    model: PreTrainedModel
    method: Method | None


@dataclass(frozen=True)
class _Excuse:
    """Why the baseline or a candidate is not timed."""

    status: Status
    reason: str


def _load(model: TimedModel, setting: Setting) -> _Contender | _Excuse:
    if not model.folder.is_dir():
        return _Excuse("failed", f"cannot be loaded: there is no folder {model.folder}")
    try:
        if model.method == TEACHER:
            from bench.tasks.heads import auto_model_class

            method, loaded = None, auto_model_class(setting.task.head).from_pretrained(model.folder)
        else:
            kind = methods.get(model.method)
            method = kind(kind.Config(**model.config))
            loaded = method.load(model.folder, setting.task)
        return _Contender(_resident(loaded.to(setting.device, DTYPES[setting.dtype]).eval()), method)
    except Exception as error:  # noqa: BLE001  a method's load may raise anything, and must not stop the others
        return _Excuse("failed", f"cannot be loaded: {describe(error)}")


def _resident(model: PreTrainedModel) -> PreTrainedModel:
    """Copy weights that are pages of a mapped file: such pages come and go while we measure."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
    return model


def _prepare(
    contender: _Contender | _Excuse, runtime: Runtime, workload: Workload, batches: list[Inputs]
) -> Run | _Excuse:
    if isinstance(contender, _Excuse):
        return contender
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    positions = getattr(contender.model.config, "max_position_embeddings", longest)
    if longest > positions:  # on a GPU the attempt would take the whole process down
        return _Excuse("skipped", f"has positions for {positions} tokens, the workload has {longest}")
    try:
        skip = contender.method.runs(runtime.name, workload) if contender.method is not None else None
        skip = skip or runtime.runs(contender.model)
        return (
            _Excuse("skipped", skip.reason) if skip is not None else runtime.prepare(contender.model, batches)
        )
    except Exception as error:  # noqa: BLE001  nor may its capture or compilation
        return _Excuse("failed", f"cannot be prepared: {describe(error)}")


def _time_workload(
    workload: Workload,
    batches: list[Inputs],
    runtime: Runtime,
    baseline: _Contender | _Excuse,
    candidates: dict[str, _Contender | _Excuse],
    job: TimeJob,
) -> list[Sample]:
    reference = _prepare(baseline, runtime, workload, batches)
    if isinstance(reference, _Excuse):
        reason = f"the baseline {reference.reason}"
        return [Sample(name, workload.name, reference.status, reason) for name in candidates]

    def sample(name: str, contender: _Contender | _Excuse) -> Sample:
        gc.collect()  # of the last candidate nothing is left, its graph's memory neither
        run = _prepare(contender, runtime, workload, batches)
        if isinstance(run, _Excuse):
            return Sample(name, workload.name, run.status, run.reason)
        return _time_candidate(name, workload, batches, reference, run, job)

    return [sample(name, contender) for name, contender in candidates.items()]


def _time_candidate(
    name: str, workload: Workload, batches: list[Inputs], reference: Run, run: Run, job: TimeJob
) -> Sample:
    # every shape is met once before anything counts
    warmup = max(job.warmup, len({batch["input_ids"].shape for batch in batches}))
    gc.collect()
    gc.freeze()
    throttled, load = _throttle_count(), os.getloadavg()[0]
    laps = interleave(
        reference,
        run,
        batches=len(batches),
        rounds=warmup + job.rounds,
        stopwatch=stopwatch_for(torch.device(job.setting.device)),
    )
    gc.unfreeze()
    warnings = ("clock throttled",) if _throttle_count() > throttled else ()
    if laps.failure:
        return Sample(name, workload.name, "failed", laps.failure)
    repeat = Repeat(
        warmup=warmup,
        baseline_ms=laps.baseline_ms,
        candidate_ms=laps.candidate_ms,
        load_average=(load, os.getloadavg()[0]),
    )
    return Sample(name, workload.name, "done", repeat=repeat, warnings=warnings)


def _throttle_count() -> int:
    """Return how often a core was slowed down for its heat since the machine started; 0 where it does not say."""
    return sum(int(file.read_text()) for file in CORES.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))


def _weigh(job: MemoryJob, batches: dict[str, list[Inputs]]) -> Answer:
    """Read the peak of each workload: from the loaded model on, the libraries' own pages included."""
    device = torch.device(job.setting.device)
    runtime = runtimes.get(job.setting.runtime)()
    loaded = _load(job.model, job.setting)
    peaks, energies = {}, {}
    for workload in job.workloads:
        if device.type == "cuda":
            reset_peak_memory(device)  # a graph's memory is taken while it is captured
        run = _prepare(loaded, runtime, Workload.parse(workload), batches[workload])
        if isinstance(run, _Excuse):
            continue
        gc.collect()
        if device.type == "cpu":
            reset_peak_memory(device)
            if peak_memory_bytes(device) > FORGOTTEN * psutil.Process().memory_info().rss:
                continue  # the system did not forget the peak of the loading: then nothing true can be said
        for index in range(len(batches[workload])):
            run(index)
        peaks[workload] = peak_memory_bytes(device)
        energy = energy_mj(device, run, len(batches[workload]))
        if energy is not None:
            energies[workload] = energy
        del run  # and with it what a graph holds
    return Answer(peak_memory_bytes=peaks, energy_mj=energies)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
