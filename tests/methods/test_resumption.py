"""All state of our objectives is in tensors, so that a killed training goes on bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.checkpointing import restore_training_state, training_state
from bench.contract.specimen import Start, begin
from bench.method import Method, Skip
from bench.steps import LOSS, trained_parameters, weighted
from methods.distilbert import DistilBert
from methods.finetune import FineTune
from methods.moebert import MoEBert
from methods.prune_magnitude import PruneMagnitude
from methods.prune_structured import PruneStructured
from methods.tinybert import TinyBert, TinyBertConfig

STEPS = 8


class NarrowTinyBert(TinyBert):
    def __init__(self, config: TinyBertConfig | None = None) -> None:
        super().__init__(config or TinyBertConfig(hidden_size=16))


class Training:
    """One stage of a method, a step at a time."""

    def __init__(self, plugin: type[Method], stage: int) -> None:
        start = begin(plugin, "classification")
        assert not isinstance(start, Skip)
        self.start: Start = start
        self.objective = start.stages[stage].objective.train()
        parameters = trained_parameters(start.student, self.objective, start.teacher)
        self.optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3)

    def step(self, number: int) -> None:
        self.objective.progress.fill_(number / (STEPS - 1))
        self.objective.refresh()
        weighted(self.objective(self.start.batches[number % 3]), self.objective)[LOSS].backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def everything(self) -> tuple[Any, ...]:
        return self.start.student, self.start.teacher, self.objective, self.optimizer

    def finalized(self) -> dict[str, torch.Tensor]:
        return self.start.method.finalize(self.start.student, self.start.stages).state_dict()


@pytest.mark.parametrize("killed_after", [2, 6])
@pytest.mark.parametrize(
    ("plugin", "stage"),
    [
        (FineTune, 0),
        (DistilBert, 0),
        (TinyBert, 0),
        (TinyBert, 1),
        (NarrowTinyBert, 0),
        (PruneStructured, 0),
        (PruneMagnitude, 0),
        (MoEBert, 0),
    ],
)
def test_an_interrupted_training_ends_where_the_whole_one_does(
    plugin: type[Method], stage: int, killed_after: int
) -> None:
    torch.manual_seed(0)
    whole = Training(plugin, stage)
    for number in range(killed_after):
        whole.step(number)
    saved = {name: tensor.detach().clone() for name, tensor in training_state(*whole.everything, {}).items()}
    for number in range(killed_after, STEPS):
        whole.step(number)

    resumed = Training(plugin, stage)
    restore_training_state(saved, *resumed.everything)
    for number in range(killed_after, STEPS):
        resumed.step(number)
    torch.testing.assert_close(resumed.finalized(), whole.finalized(), rtol=0, atol=0)
