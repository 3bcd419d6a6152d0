"""Record what a function launches on the GPU, and launch it again at once: CUDA graphs.

A launch costs the host some microseconds, so small kernels leave the GPU waiting; a graph of a thousand costs one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class CaptureError(Exception):
    """A function cannot be held in a CUDA graph; the message says why."""


@dataclass(frozen=True)
class Recording(Generic[T]):
    """A captured function.

    Attributes:
        outputs: What the function returned; its tensors are filled anew by every replay.
    """

    graph: torch.cuda.CUDAGraph
    outputs: T

    def replay(self) -> T:
        """Launch the graph on the current stream and return the outputs, valid until the recorder's next replay."""
        self.graph.replay()
        return self.outputs


class Recorder:
    """Capture functions whose recordings share memory, since only one of them runs at a time.

    A recorder is done when its recordings are: the memory goes with the last of them.

    Args:
        device: Of all tensors that the functions touch.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # memory is shared within a stream only
        self.pool = torch.cuda.graph_pool_handle()

    def warm_up(self, function: Callable[[], object], times: int = 2) -> None:
        """Run a function for good on the side, so that nothing compiles or is loaded during its capture."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for _ in range(times):
                function()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def capture(self, function: Callable[[], T]) -> Recording[T]:
        """Record what a function launches; nothing of it runs, and random numbers stay where they are.

        Args:
            function: Has run before. Reads and writes tensors that stay where they are, and never waits for the GPU.

        Raises:
            CaptureError: Where it does wait, say; the GPU can be used as before.
            torch.OutOfMemoryError: Where the memory is not enough for a graph of its own.
        """
        graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[self.stream.device_index]
        random = generator.clone_state()
        failure: Exception | None = None
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()  # during a capture nothing can be given back, and a graph has memory of its own
        with torch.cuda.stream(self.stream):
            graph.capture_begin(pool=self.pool)
            try:
                outputs = function()
            except Exception as error:  # noqa: BLE001 - whatever it is, the capture must end
                failure = error
            try:
                graph.capture_end()
            except RuntimeError as error:  # the end of a broken capture fails too, and says less
                failure = failure or error
                self._end_capture(generator, random)
        if failure is None:
            return Recording(graph, outputs)
        failure.__traceback__ = None  # its frames would keep what was captured alive
        if isinstance(failure, torch.OutOfMemoryError):
            raise failure
        raise CaptureError(" ".join(f"{type(failure).__name__}: {failure}".split())) from failure

    def _end_capture(self, generator: torch.Generator, random: torch.Generator) -> None:
        """Tell random numbers and memory what the end of a broken capture leaves out."""
        generator.graphsafe_set_state(random)
        torch._C._cuda_endAllocateToPool(self.stream.device_index, self.pool)
        torch._C._cuda_releasePool(self.stream.device_index, self.pool)
        self.pool = torch.cuda.graph_pool_handle()
