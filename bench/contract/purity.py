"""Prove that an objective asks nothing of the data, so that a CUDA graph can hold its step.

The step runs on fake tensors: shapes without values, on a device that no branch for CPUs matches. Whatever needs a
value, ``.item()``, ``if tensor:``, a mask that selects, has nothing to read and fails. Tensors that are neither
parameters nor buffers fail too: they would not move to a GPU either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.method import Objective

DEVICE = "meta"


def run_without_values(objective: Objective, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run forward and backward on fake tensors; the objective is of no use afterwards.

    Raises:
        Exception: Of torch, naming the operation that needs a value.
    """
    with FakeTensorMode(), _autocast_anywhere():
        for module in objective.modules():
            _hollow(module)
        terms: dict[str, Tensor] = objective({name: _fake(value) for name, value in batch.items()})
        torch.stack([term.float() for term in terms.values()]).sum().backward()
    return terms


def _hollow(module: nn.Module) -> None:
    """Replace a module's own parameters and buffers by fakes."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(_fake(parameter), requires_grad=parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = _fake(buffer)


def _fake(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)


@contextmanager
def _autocast_anywhere() -> Iterator[None]:
    """Let torch's autocast take the device of the fakes, which it does not know."""
    usual = {name: getattr(torch, name) for name in ("autocast", "is_autocast_enabled", "get_autocast_dtype")}

    def known(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*("cpu" if arg == DEVICE else arg for arg in args), **kwargs)

    try:
        for name, function in usual.items():
            setattr(torch, name, partial(known, function))
        yield
    finally:
        for name, function in usual.items():
            setattr(torch, name, function)
