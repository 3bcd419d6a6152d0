from __future__ import annotations

import pytest
import torch

from bench.tasks.task import Task
from bench.toys import toy_task


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def classification() -> Task:
    return toy_task("classification")


@pytest.fixture
def regression() -> Task:
    return toy_task("regression")


@pytest.fixture
def spans() -> Task:
    return toy_task("extractive-qa")
