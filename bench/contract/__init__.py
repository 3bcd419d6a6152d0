"""The contract of a method as named checks, run on tiny models made in code: ``moebench check METHOD``.

A student is made twice from one seed, trained for a few steps, saved, and loaded again by a fresh process, all of it in
a sandbox. A failed check says what it found. A head that the method leaves out is said, not failed.
"""

from bench.contract.outcome import CheckResult
from bench.contract.run import run_contract, run_contracts

__all__ = ["CheckResult", "run_contract", "run_contracts"]
