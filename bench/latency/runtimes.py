"""How a model is executed while it is timed: eager here; captured and compiled runtimes join by entry point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from bench.data import model_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.method import Skip

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

    @abstractmethod
    def prepare(self, model: PreTrainedModel, batches: Sequence[dict[str, Tensor]]) -> Run:
        """Do what is done once (capture, compilation) and return the call that is timed.

        Args:
            model: In eval mode, on its device and in its dtype.
            batches: ``[batch, length]`` inputs on the model's device.

        Returns:
            A function from the number of a batch to the model's output. It may return before the device has finished.
        """


class Eager(Runtime):
    """Call the model as it is."""

    name = "eager"
    summary = "the model's own forward, operator by operator"

    def prepare(self, model: PreTrainedModel, batches: Sequence[dict[str, Tensor]]) -> Run:
        """Return a call without autograd."""
        inputs = [model_inputs(model, batch) for batch in batches]

        @torch.inference_mode()
        def run(index: int) -> object:
            return model(**inputs[index])

        return run
