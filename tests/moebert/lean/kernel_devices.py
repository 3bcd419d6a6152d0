"""Where kernels are tested: on a GPU, and on a CPU by Triton's interpreter."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

INTERPRETED = pytest.param(
    "cpu",
    marks=[
        pytest.mark.triton,
        pytest.mark.skipif(
            find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1",
            reason="needs triton and TRITON_INTERPRET=1",
        ),
    ],
)
DEVICES = pytest.mark.parametrize("device", [INTERPRETED, pytest.param("cuda", marks=pytest.mark.gpu)])
