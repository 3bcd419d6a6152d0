"""Load saved students in a fresh process, as timing and evaluation will."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.contract.outcome import BrokenError, describe
from bench.contract.sandbox import watch
from bench.contract.specimen import Specimen, answers
from bench.tasks.task import Task
from bench.toys import toy_batches

if TYPE_CHECKING:
    from torch import Tensor

REQUEST, REPLY, LOGITS = "request.json", "reply.json", "reply.safetensors"


def reload_all(specimens: Sequence[Specimen]) -> None:
    """Start one process that loads every specimen and leaves its reply in the specimen's folder."""
    if not specimens:
        return
    for specimen in specimens:
        start, plugin = specimen.start, type(specimen.start.method)
        request = {
            "module": plugin.__module__,
            "qualname": plugin.__qualname__,
            "config": start.method.config.model_dump(mode="json"),
            "task": start.task.model_dump(mode="json"),
        }
        (specimen.folder / REQUEST).write_text(json.dumps(request))
    child = subprocess.run(
        [sys.executable, "-m", "bench.contract", *(str(specimen.folder) for specimen in specimens)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"the fresh process failed: {child.stderr[-2000:]}")


def replied(specimen: Specimen) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Read the logits that the fresh process got, and what it ``wrote`` and ``called`` on the way.

    Raises:
        BrokenError: With the error that loading met.
    """
    from safetensors.torch import load_file

    reply = json.loads((specimen.folder / REPLY).read_text())
    if "error" in reply:
        raise BrokenError(f"does not load in a fresh process: {reply['error']}")
    logits: dict[str, Tensor] = load_file(specimen.folder / LOGITS)
    return logits, reply


def reply(folder: Path) -> None:
    """Load what a request names, run it, and leave logits or the error."""
    from safetensors.torch import save_file

    try:
        with watch(folder) as sandbox:
            save_file(_load_and_run(folder), folder / LOGITS)
        told: dict[str, Any] = {"wrote": sandbox.writes, "called": sandbox.calls}
    except Exception as error:  # noqa: BLE001 - the parent judges
        told = {"error": describe(error)}
    (folder / REPLY).write_text(json.dumps(told))


def _load_and_run(folder: Path) -> dict[str, Tensor]:
    torch.set_num_threads(1)
    request = json.loads((folder / REQUEST).read_text())
    plugin: Any = importlib.import_module(request["module"])
    for name in request["qualname"].split("."):
        plugin = getattr(plugin, name)
    method = plugin(plugin.Config.model_validate(request["config"]))
    task = Task.model_validate(request["task"])
    return answers(method.load(folder, task).float().eval(), toy_batches(task)[0])
