"""What heads hand over: a split's tokens as named flat arrays, and a model's logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
"""Names as in ``bench.encoded.Encoded``."""

Logits = NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.float32]]
"""``[features, labels]``; for extractive QA those of starts and of ends, each ``[features, longest length]``."""
