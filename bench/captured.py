"""Optimiser steps as CUDA graphs: the same step as in ``bench.steps``, launched at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench.graphs import CaptureError, Recorder, Recording
from bench.steps import EagerStep

if TYPE_CHECKING:
    from bench.batching import Batch
    from bench.encoded import Encoded
    from bench.method import Objective
    from results.record import Budget

Shape = tuple[int, int]  # rows of a batch, tokens of each

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Graph:
    """A recorded step and the numbers of the rows that it reads, ``[batch]``."""

    chosen: Tensor
    recording: Recording[dict[str, Tensor]]


class CapturedStep(EagerStep):
    """Minimise an objective batch by batch, each shape of batch as one CUDA graph.

    The first batch of a shape is a step in eager mode, after which nothing is left to compile or to allocate; the
    second is captured, which runs nothing, and replayed. So weights, optimiser and random numbers change by the steps
    alone. What the graphs read must stay where it is: they are captured again where ``refresh`` replaced a tensor.
    Where a step cannot be captured, a warning says why, once, and all steps are eager from there on.

    Args:
        modules: Whose parameters and buffers a step may read; the objective's are among them.
        objective: As for an eager step, like the other arguments.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        objective: Objective,
        parameters: dict[str, nn.Parameter],
        rows: Encoded,
        budget: Budget,
        precision: str,
        micro_batch_size: int,
    ) -> None:
        super().__init__(objective, parameters, rows, budget, precision, micro_batch_size)
        self.modules = [*modules, objective]
        self.met: set[Shape] = set()
        self.gave_up = False
        self._forget_graphs()

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step; the values are those of an eager step, valid until the next."""
        shape = (len(batch.indices), batch.length)
        if shape in self.met and shape not in self.graphs and not self.gave_up:
            self._capture(shape)
        if shape not in self.graphs:
            self.met.add(shape)
            return super().__call__(batch)
        graph = self.graphs[shape]
        graph.chosen.copy_(self.rows.send(batch.indices, batch.length))
        return graph.recording.replay()

    def refresh(self) -> None:
        """Let the objective do what it does between steps, and forget graphs that read what it replaced."""
        before = self._read()
        super().refresh()
        if self._read() != before:
            self._forget_graphs()

    def _capture(self, shape: Shape) -> None:
        rows, length = shape
        chosen = torch.zeros(rows, dtype=torch.int64, device=self.device)

        def step() -> dict[str, Tensor]:
            values = self._gradients(chosen, length)
            self._update()
            return values

        try:
            self.graphs[shape] = _Graph(chosen, self.recorder.capture(step))
        except (CaptureError, torch.OutOfMemoryError) as error:
            self.optimizer.zero_grad(set_to_none=True)
            self._forget_graphs()
            self.gave_up, self.execution = True, "eager"
            name = type(self.objective).__name__
            log.warning("all steps from here on are eager, those of %s cannot be captured: %s", name, error)
        else:
            self.execution = "captured"

    def _forget_graphs(self) -> None:
        self.graphs: dict[Shape, _Graph] = {}
        self.recorder = Recorder(self.device)

    def _read(self) -> list[object]:
        """List where everything lies that a step reads and what it holds constant."""
        tensors = (chain(module.parameters(), module.buffers()) for module in self.modules)
        places = [(tensor.data_ptr(), tensor.requires_grad) for tensor in chain.from_iterable(tensors)]
        weights = self.objective.weights.items()
        return [*places, *((name, w.data_ptr() if isinstance(w, Tensor) else w) for name, w in weights)]
