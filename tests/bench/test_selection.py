"""A matrix made in parts: some cells at a time, on machines that know only the tries."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from bench.errors import UserError
from bench.kit import pack, take_tries, unpack
from bench.matrix import load_matrix
from bench.plans import cells
from bench.recorded import recorded_cells, recorded_tries
from bench.run import run
from bench.selection import Part, parse_part, select
from bench.survey import Survey
from results.errors import RunFolderError
from results.record import CellRecord, LatencyRecord
from results.store import RunFolder, copy_tries, merge

pytestmark = pytest.mark.usefixtures("cache")

TUNING = {"tries": 2, "rows": 0.25, "max_steps": 2, "learning_rates": [1e-3, 1e-5]}


@pytest.fixture
def two_tasks(tiny_matrix: Path, tiny_task: Path, tmp_path: Path) -> Path:
    """A tuned matrix of two tasks, at two seeds and at one; the first task decides for both."""
    folder = tmp_path / "task"
    shutil.copytree(tiny_task.parent, folder)
    other = folder / "other.yaml"
    other.write_text((folder / "tiny.yaml").read_text().replace("name: tiny", "name: other"))
    keys = {
        "tasks": [str(tiny_task), str(other)],
        "seeds": [0, 1],
        "budget": {"max_steps": 2, "batch_size": 16},
        "by_task": {"other": {"seeds": [1]}},
        "tuning": TUNING | {"tasks": {"classification": "tiny"}},
    }
    tiny_matrix.write_text(yaml.safe_dump(yaml.safe_load(tiny_matrix.read_text()) | keys))
    return tiny_matrix


def names(plans) -> list[tuple[str, int]]:
    return [(plan.task.name, plan.seed) for plan in plans]


def states(folder: Path) -> dict[tuple[str, int], set[str]]:
    found: dict[tuple[str, int], set[str]] = {}
    for cell in recorded_cells(RunFolder(folder)):
        found.setdefault((cell.task, cell.seed), set()).add(cell.state)
    return found


def test_a_task_may_have_fewer_seeds_than_the_matrix(two_tasks):
    assert names(cells(load_matrix(str(two_tasks)))) == [("tiny", 0), ("tiny", 1), ("other", 1)]
    assert names(cells(load_matrix(str(two_tasks), {"seeds": [0]}))) == [("tiny", 0)]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], [("tiny", 0), ("tiny", 1), ("other", 1)]),
        (["tiny"], [("tiny", 0), ("tiny", 1)]),
        (["other", "tiny:1"], [("other", 1), ("tiny", 1)]),
        (["tiny:0-1"], [("tiny", 0), ("tiny", 1)]),
    ],
)
def test_parts_are_made_in_the_order_they_are_named(two_tasks, texts, expected):
    plans = cells(load_matrix(str(two_tasks)))
    assert names(select(plans, [parse_part(text) for text in texts])) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tinny", "--only: unknown task 'tinny'; did you mean 'tiny'"),
        ("other:0", "--only other: the matrix has the seeds 1, not 0"),
        ("tiny:a", "--only tiny: 'a': write numbers"),
        ("tiny:", "--only tiny: '': write numbers"),
    ],
)
def test_a_part_that_is_not_there_is_refused(two_tasks, text, message):
    with pytest.raises(UserError, match=message):
        select(cells(load_matrix(str(two_tasks))), [parse_part(text)])


def test_a_cell_in_two_parts_is_refused(two_tasks):
    with pytest.raises(UserError, match="some cells twice"):
        select(cells(load_matrix(str(two_tasks))), [Part("tiny"), Part("tiny", (0,))])


def test_slices_made_from_kits_with_the_same_tries_join_to_the_whole_matrix(two_tasks, tmp_path, monkeypatch):
    matrix = load_matrix(str(two_tasks))
    outcome = run(matrix, tmp_path / "tuned", only=[Part("other")], tries_only=True)
    assert (outcome.tries, outcome.cells) == ({"done": 4}, {})
    for part in ("tiny:0", "tiny:1", "other"):
        kit, out = tmp_path / f"{part}.tar", tmp_path / part
        pack(matrix, kit, only=[parse_part(part)], tries=tmp_path / "tuned")
        monkeypatch.setenv("MOEBENCH_CACHE", str(tmp_path / f"cache of {part}"))
        placed = unpack(kit)
        take_tries(placed, out)
        outcome = run(load_matrix(str(placed)), out, only=[parse_part(part)])
        assert outcome.failures == []
        assert (outcome.tries, outcome.cells) == ({"done": 4}, {"done": 2})
        assert "missing" in {state for found in states(out).values() for state in found}
    joined = tmp_path / "joined"
    assert merge([tmp_path / part for part in ("tiny:0", "tiny:1", "other")], joined) == 4 + 6
    assert states(joined) == {key: {"done"} for key in [("tiny", 0), ("tiny", 1), ("other", 1)]}
    assert {cell.state for cell in recorded_tries(RunFolder(joined))} == {"done"}
    by_id = {record.id: record for record in RunFolder(tmp_path / "tuned").records()}
    assert {key: RunFolder(joined).record(key) for key in by_id} == by_id


def test_a_try_that_failed_elsewhere_decides_as_it_is(two_tasks, tmp_path, monkeypatch):
    from methods.finetune import FineTune

    compress, calls = FineTune.compress, []

    def first_fails(self, teacher, calibration, task):
        calls.append(task)
        if len(calls) == 1:
            raise RuntimeError("no such layer")
        return compress(self, teacher, calibration, task)

    matrix = load_matrix(str(two_tasks))
    with monkeypatch.context() as patched:
        patched.setattr(FineTune, "compress", first_fails)
        run(matrix, tmp_path / "tuned", only=[Part("other")], tries_only=True)
    copy_tries(tmp_path / "tuned", tmp_path / "slice")
    outcome = run(matrix, tmp_path / "slice", only=[Part("other")])
    assert (outcome.tries, outcome.cells) == ({"done": 3, "failed": 1}, {"done": 2})
    (failure,) = outcome.failures
    assert "no such layer" in failure
    students = [record for record in RunFolder(tmp_path / "slice").records() if record.label == "finetune"]
    assert [one.tuning.winner for one in students if one.tuning] == [1]


def test_a_slice_that_was_cut_off_goes_on_where_its_teacher_is_and_nowhere_else(two_tasks, tmp_path):
    from methods.finetune import FineTune

    matrix, out = load_matrix(str(two_tasks), {"tuning": None}), tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(FineTune, "compress", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(matrix, out, only=[Part("tiny", (0,))])
    brought_home = tmp_path / "brought home"
    shutil.copytree(out, brought_home, ignore=shutil.ignore_patterns("models"))
    (teacher,) = RunFolder(brought_home).records()
    outcome = run(matrix, brought_home, only=[Part("tiny", (0,))])
    assert outcome.cells == {"done": 1, "missing": 1}
    (failure,) = outcome.failures
    assert f"the checkpoint of its teacher, cell {teacher.id}, is not in this folder" in failure
    assert run(matrix, out, only=[Part("tiny", (0,))]).cells == {"done": 2}


def test_only_the_rows_of_the_chosen_tasks_are_read(two_tasks, tmp_path):
    survey = Survey(load_matrix(str(two_tasks)), RunFolder(tmp_path / "run"), [Part("other")])
    assert set(survey.rows) == {"other"}
    assert set(survey.train_rows) == {"tiny"}
    (tmp_path / "task" / "train.jsonl").write_text("no rows of the other task")
    Survey(load_matrix(str(two_tasks)), RunFolder(tmp_path / "run"), [Part("tiny")])


def test_a_folder_without_tries_has_none_to_give(two_tasks, tmp_path):
    run(load_matrix(str(two_tasks), {"tuning": None}), tmp_path / "run", only=[Part("other")])
    with pytest.raises(RunFolderError, match="no tries of a tuning; `moebench run MATRIX --tries-only`"):
        copy_tries(tmp_path / "run", tmp_path / "out")


def test_each_plan_of_the_clock_has_tasks_and_a_device_of_its_own(two_tasks, tmp_path):
    clock = {"workloads": ["1x8"], "repeats": 1, "rounds": 2, "warmup": 0, "memory": False}
    plans = [clock, clock | {"tasks": ["other"], "seeds": [1], "device": "cpu", "workloads": ["2x8"]}]
    matrix = load_matrix(str(two_tasks), {"tuning": None, "latency": plans})
    outcome = run(matrix, tmp_path / "run", only=[Part("tiny", (0,)), Part("other")])
    assert outcome.failures == []
    timings = [one for one in RunFolder(tmp_path / "run").records() if isinstance(one, LatencyRecord)]
    assert sorted((one.task, one.seed, one.workload.name, one.label) for one in timings) == [
        ("other", 1, "2x8", "finetune"),
        ("other", 1, "2x8", "teacher"),
        ("tiny", 0, "1x8", "finetune"),
        ("tiny", 0, "1x8", "teacher"),
    ]
    assert {one.device for one in timings} == {"cpu"}
    with pytest.raises(UserError, match=r"latency\.tasks: unknown task 'tinny'"):
        Survey(
            load_matrix(str(two_tasks), {"latency": clock | {"tasks": ["tinny"]}}),
            RunFolder(tmp_path / "new"),
        )


def test_the_command_line_makes_tries_and_parts_and_packs_them(moebench, two_tasks, tmp_path):
    tuned, kit, out = tmp_path / "tuned", tmp_path / "kit.tar", tmp_path / "run"
    code, shown, said = moebench("run", two_tasks, "--out", tuned, "--only", "other", "--tries-only")
    assert code == 0, said
    assert '"tries": {"done": 4}' in shown.splitlines()[-1]
    assert '"report": null' in shown.splitlines()[-1]
    code, _, said = moebench("kit", two_tasks, "--out", kit, "--only", "other", "--tries", tuned)
    assert code == 0, said
    code, shown, said = moebench("run", "--kit", kit, "--out", out, "--only", "other", "--dry-run")
    assert (code, "4 tries and 2 cells to make" in shown) == (0, True), said
    code, shown, said = moebench("run", "--kit", kit, "--out", out, "--only", "other")
    assert code == 0, said
    records = [record for record in RunFolder(out).records() if isinstance(record, CellRecord)]
    assert sorted(record.task for record in records) == ["other"] * 2 + ["tiny"] * 4
    assert moebench("run", two_tasks, "--only", "tinny")[0] == 2
