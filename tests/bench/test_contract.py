"""Our methods keep the contract; each check is seen failing on a method that breaks it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import bad_methods as bad
import pytest
import torch

from bench import registry
from bench.contract import CheckResult, run_contract, run_contracts
from bench.contract.run import CHECKS
from bench.errors import UserError
from bench.method import Method

OURS = ("distilbert", "finetune", "moebert", "prune-magnitude", "prune-structured", "tinybert")
NAMES = {
    "literals",
    "configuration",
    "makes-a-student",
    "student",
    "teacher-unchanged",
    "stages",
    "objective-needs-no-values",
    "same-seed-same-student",
    "cost",
    "writes-nothing-elsewhere",
    "needs-no-network",
    "reload",
}
WITHOUT_A_STUDENT = {"makes-a-student", *CHECKS, "reload"}

# (method, checks that fail, what the first says)
BROKEN: list[tuple[type[Method], set[str], str]] = [
    (bad.ComputedName, {"literals"}, "name is 'computed-name' but not as a literal"),
    (bad.InheritedSummary, {"literals"}, "summary is 'keeps the contract' but not as a literal"),
    (bad.EmptyPaper, {"literals"}, "paper must be a string, not ''"),
    (bad.UndescribedKnob, {"configuration"}, "knobs without a description: mystery"),
    (bad.TakesAnyKey, {"configuration"}, "must forbid unknown keys"),
    (bad.NoDefaults, {"configuration"} | WITHOUT_A_STUDENT, "needed"),
    (bad.GridOfNothing, {"configuration"}, "grid names 'layres'"),
    (bad.GridOutOfRange, {"configuration"}, "valid integer"),
    (bad.Local, {"reload"}, "<locals>"),
    (bad.Raises, WITHOUT_A_STUDENT, r"ZeroDivisionError: nothing left \(bad_methods.py:\d+\)"),
    (bad.SkipsAll, WITHOUT_A_STUDENT, "classification left out: not in the mood"),
    (bad.KeepsTheTeacher, WITHOUT_A_STUDENT, "shares parameters with its teacher"),
    (bad.WrongShape, {"student", "reload"}, r"must be finite, of shape \(8, 3\), not \(8, 7\)"),
    (bad.TouchesTheTeacher, {"teacher-unchanged"}, "the teacher changed: classifier.weight"),
    (bad.Unseeded, {"same-seed-same-student"}, "two students of one seed differ"),
    (bad.ForgetsItsState, {"reload"}, "logits of the reloaded student differ"),
    (bad.CannotLoad, {"reload"}, "does not load in a fresh process: KeyError: 'quantized_weight'"),
    (bad.WritesWhenLoading, {"reload"}, r"loading wrote .*loaded.txt"),
    (bad.HalfTheBudget, {"stages"}, r"sum to 1, not \[0.5\]"),
    (bad.TwinStages, {"stages"}, "names of the stages must differ"),
    (bad.VectorTerm, {"stages"}, "term 'labels' is not a finite scalar"),
    (bad.WeightForNothing, {"stages"}, r"weights for terms that are not there: \['lables'\]"),
    (bad.TrainsNothing, {"stages"}, "training changed no parameter"),
    (bad.ChangesTheBatch, {"stages"}, "input_ids of a batch was changed in place"),
    (bad.ReadsAValue, {"objective-needs-no-values"}, "DataDependentOutputException"),
    (bad.SelectsRows, {"objective-needs-no-values"}, "DynamicOutputShapeException"),
    (bad.LooseTensor, {"objective-needs-no-values"}, "needs values of tensors"),
    (bad.FlattersItself, {"cost"}, "torch counts"),
    (bad.HidesParameters, {"cost"}, "stored parameters; the student has"),
    (bad.MoreThanStored, {"cost"}, "more parameters effective than stored"),
    (bad.WritesHere, {"writes-nothing-elsewhere"}, "wrote .*train.log"),
    (bad.WritesFromC, {"writes-nothing-elsewhere"}, "wrote home/cache.pt"),
    (bad.WritesFarAway, {"writes-nothing-elsewhere"}, "wrote /tmp/far-away-"),
    (bad.LeavesTemporaries, {"writes-nothing-elsewhere"}, "wrote temporary/forgotten-"),
    (bad.CallsOut, {"needs-no-network"}, r"called socket.connect \('192.0.2.1', 443\)"),
    (bad.LooksUp, {"needs-no-network"}, "called socket.getaddrinfo models.example.org"),
]


@pytest.fixture(scope="module")
def results() -> dict[str, list[CheckResult]]:
    methods = [*OURS, bad.Good, *(method for method, _, _ in BROKEN)]
    names = [method if isinstance(method, str) else method.__name__ for method in methods]
    return dict(zip(names, run_contracts(methods), strict=True))


def test_every_registered_method_of_ours_is_tried() -> None:
    assert set(OURS) == {
        entry
        for entry in registry.methods.names()
        if registry.methods.entry(entry).module.startswith("methods.")
    }


@pytest.mark.parametrize("name", OURS)
def test_our_methods_keep_the_contract_on_every_head(
    results: dict[str, list[CheckResult]], name: str
) -> None:
    assert {result.name for result in results[name]} == NAMES
    assert [result for result in results[name] if not result.passed or result.detail] == []


def test_a_head_that_is_left_out_is_said_and_nothing_else(results: dict[str, list[CheckResult]]) -> None:
    assert [result for result in results["Good"] if not result.passed] == []
    assert [result.detail for result in results["Good"] if result.detail] == [
        "regression left out: one head is enough here; extractive-qa left out: one head is enough here"
    ]


@pytest.mark.parametrize(
    ("method", "checks", "message"), BROKEN, ids=[method.__name__ for method, _, _ in BROKEN]
)
def test_the_broken_part_is_found_and_named(
    results: dict[str, list[CheckResult]], method: type[Method], checks: set[str], message: str
) -> None:
    failed = {result.name: result.detail for result in results[method.__name__] if not result.passed}
    assert set(failed) == checks
    assert re.search(message, next(iter(failed.values())))


def test_every_check_is_seen_failing() -> None:
    assert {name for _, checks, _ in BROKEN for name in checks} == NAMES


def test_an_unknown_name_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean 'moebert'"):
        run_contract("moebrt")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever was checked, generators and threads are as before."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    yield
    assert torch.equal(state, torch.get_rng_state())
    assert threads == torch.get_num_threads()
