"""Frames that several tests draw from."""

from __future__ import annotations

import pytest
from synthetic import ENVIRONMENT, campaign

from results.frame import Frame, from_records


@pytest.fixture(scope="session")
def frame() -> Frame:
    """Five methods, one task, three seeds, all finished and timed."""
    return from_records(campaign(), environments={ENVIRONMENT.id: ENVIRONMENT})
