"""How a model is executed while it is timed: as it is, as a CUDA graph, compiled; others join by entry point.

The runtimes here are given the same inputs, and all models alike: without an attention mask where a workload has no
padding. A mask of ones says nothing, but transformers must look into it on the host, which a captured or compiled model
cannot, and then attends by a slow path.
"""

from __future__ import annotations

import inspect
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from bench.data import model_inputs
from bench.graphs import Recorder, Recording
from bench.method import Skip

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Inputs = Mapping[str, Any]
Run = Callable[[int], object]


class Runtime(ABC):
    """Make a model ready to be called again and again on the batches of one workload.

    Attributes:
        name: What the command line and the tables show.
        summary: One line.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    def supports(self, device: torch.device) -> Skip | None:
        """Return why this runtime cannot be used on a device, or None."""
        return None

    def runs(self, model: PreTrainedModel) -> Skip | None:
        """Return why this runtime cannot run a model, or None."""
        return None

    @abstractmethod
    def prepare(self, model: PreTrainedModel, batches: Sequence[dict[str, Tensor]]) -> Run:
        """Do what is done once (capture, compilation) and return the call that is timed.

        Args:
            model: In eval mode, on its device and in its dtype.
            batches: ``[batch, length]`` inputs on the model's device.

        Returns:
            A function from the number of a batch to the model's output, which is valid until the next call. It may
            return before the device has finished.
        """


class Eager(Runtime):
    """Call the model as it is."""

    name = "eager"
    summary = "the model's own forward, operator by operator"

    def prepare(self, model: PreTrainedModel, batches: Sequence[dict[str, Tensor]]) -> Run:
        """Return a call without autograd."""
        return direct(model, timed_inputs(model, batches))


class CudaGraph(Runtime):
    """Capture the forward pass once for each shape, then replay it; the inputs are copied in by each call."""

    name = "cuda-graph"
    summary = "the model's own kernels, launched at once as a CUDA graph"

    def supports(self, device: torch.device) -> Skip | None:
        """Ask for a GPU."""
        return None if device.type == "cuda" else Skip(f"CUDA graphs need a CUDA device, this is {device}")

    def prepare(self, model: PreTrainedModel, batches: Sequence[dict[str, Tensor]]) -> Run:
        """Capture a graph for each shape."""
        return captured(model, timed_inputs(model, batches))


class Compiled(Runtime):
    """Compile the forward pass once for each shape; on a GPU the kernels are captured in a CUDA graph too."""

    name = "compiled"
    summary = "kernels fused by torch.compile; on a GPU launched as a CUDA graph"

    def supports(self, device: torch.device) -> Skip | None:
        """Ask for what the generated code is built with."""
        compiler = os.environ.get("CC" if device.type == "cuda" else "CXX")
        candidates = (
            [compiler] if compiler else ["gcc", "cc"] if device.type == "cuda" else ["g++", "clang++"]
        )
        if not any(shutil.which(candidate) for candidate in candidates):
            return Skip(f"torch.compile needs a compiler on the path: {' or '.join(candidates)}")
        if device.type == "cuda" and find_spec("triton") is None:
            return Skip("torch.compile needs Triton on a CUDA device")
        return None

    def prepare(self, model: PreTrainedModel, batches: Sequence[dict[str, Tensor]]) -> Run:
        """Compile for each shape, whatever number of models and shapes went before."""
        from torch._dynamo import config as dynamo

        inputs = timed_inputs(model, batches)
        with dynamo.patch(
            recompile_limit=1024, accumulated_recompile_limit=1024, fail_on_recompile_limit_hit=True
        ):
            compiled = torch.compile(model, dynamic=False)
            if model.device.type == "cuda":
                return captured(compiled, inputs)
            run = direct(compiled, inputs)
            for index in range(len(inputs)):
                run(index)
        return run


def availability(runtime: Runtime) -> str:
    """Say where a runtime can be used on this machine: ``cpu``, ``cuda``, or why nowhere."""
    devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    skips = {device.type: runtime.supports(device) for device in devices}
    usable = [device for device, skip in skips.items() if skip is None]
    reasons = [skip.reason for skip in skips.values() if skip is not None]
    return ", ".join(usable) or f"not here: {reasons[-1]}"


def timed_inputs(model: PreTrainedModel, batches: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Choose what of each batch a model is given: no mask where no batch has padding and the model needs none."""
    inputs = [model_inputs(model, batch) for batch in batches]
    mask = inspect.signature(model.forward).parameters.get("attention_mask")
    if mask is None or mask.default is mask.empty:
        return inputs
    if not all(batch["attention_mask"].all() for batch in inputs if "attention_mask" in batch):
        return inputs
    return [{name: batch[name] for name in batch if name != "attention_mask"} for batch in inputs]


def direct(model: Callable[..., object], inputs: Sequence[Inputs]) -> Run:
    """Return a call of a function on the inputs of a batch, without autograd."""

    @torch.inference_mode()
    def run(index: int) -> object:
        return model(**inputs[index])

    return run


def captured(model: Callable[..., object], inputs: Sequence[Inputs]) -> Run:
    """Return a call that copies the inputs of a batch, all at once, and replays the graph of their shapes.

    Args:
        model: Of tensors on a CUDA device; never waits for it.
        inputs: Of each batch: tensors of one type, and what else there is, by which graphs are told apart.
    """
    packed = [torch.cat([tensor.flatten() for tensor in _tensors(batch).values()]) for batch in inputs]
    keys = [tuple(_key(value) for value in batch.values()) for batch in inputs]
    recorder = Recorder(packed[0].device)
    graphs: dict[tuple[Hashable, ...], _Graph] = {}
    for key, batch, values in zip(keys, inputs, packed, strict=True):
        if key not in graphs:
            held = values.clone()
            recording = _record(model, {**batch, **_views(held, _tensors(batch))}, recorder)
            graphs[key] = _Graph(model, held, recording)

    def run(index: int) -> object:
        graph = graphs[keys[index]]
        graph.inputs.copy_(packed[index])
        return graph.recording.replay()

    return run


@dataclass(frozen=True)
class _Graph:
    """A recording and what holds the memory that it reads: the model's weights, and all inputs as one tensor."""

    model: Callable[..., object]
    inputs: Tensor
    recording: Recording[object]


def _tensors(batch: Inputs) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if isinstance(value, Tensor)}


def _key(value: Hashable) -> Hashable:
    return value.shape if isinstance(value, Tensor) else value


def _views(flat: Tensor, shaped: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cut a flat tensor into the shapes of others."""
    parts = flat.split([tensor.numel() for tensor in shaped.values()])
    return {name: part.view_as(shaped[name]) for name, part in zip(shaped, parts, strict=True)}


def _record(model: Callable[..., object], inputs: Inputs, recorder: Recorder) -> Recording[object]:
    @torch.inference_mode()
    def call() -> object:
        return model(**inputs)

    recorder.warm_up(call)
    return recorder.capture(call)
