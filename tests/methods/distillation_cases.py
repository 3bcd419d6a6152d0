"""What is matched, and a student, for tests of distillation."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.tasks.task import Task
from bench.toys import toy_teacher
from methods.distillation import Distillation, Match

HIDDEN: Match = {"feature": "hidden", "loss": "hidden_mse", "layer_T": 4, "layer_S": 2, "weight": 1.0}
COSINE: Match = {"feature": "hidden", "loss": "cos", "layer_T": 4, "layer_S": 2, "weight": 1.0}
SCORES: Match = {"feature": "attention", "loss": "attention_mse", "layer_T": 3, "layer_S": 1, "weight": 1.0}


def make_student(task: Task, hidden_size: int = 32) -> PreTrainedModel:
    return toy_teacher(task, layers=2, hidden_size=hidden_size, seed=1).requires_grad_(True)


def total(objective: Distillation, batch: dict[str, Tensor]) -> Tensor:
    return torch.stack([term * objective.weights[name] for name, term in objective(batch).items()]).sum()
