from __future__ import annotations

import pytest
import yaml

from bench.errors import UserError
from bench.matrix import load_matrix, matrix_yaml
from bench.plans import cells, one_each, teacher_plan, tuned_cells
from bench.tuning import matrix_trials

BASE = {"tasks": ["cola", "rte", "stsb"], "methods": ["finetune", "moebert"]}


def matrix(folder, **keys):
    file = folder / "some.yaml"
    file.write_text(yaml.safe_dump(BASE | keys))
    return load_matrix(str(file))


def test_a_task_has_settings_of_its_own_and_the_list_of_methods_wins(tmp_path):
    by_task = {
        "rte": {"budget": {"epochs": 10}, "methods": {"moebert": {"distill_weight": 2.0, "num_experts": 2}}}
    }
    found = matrix(tmp_path, methods=["finetune", "moebert[num_experts=8]"], by_task=by_task)
    plans = {(plan.task.name, plan.method): plan for plan in cells(found)}
    rte, cola = plans["rte", "moebert"], plans["cola", "moebert"]
    assert (rte.budget.epochs, cola.budget.epochs) == (10, 3)
    assert plans["rte", "finetune"].budget.epochs == 10
    assert teacher_plan(found, rte.task, 0).budget.epochs == 10
    assert (rte.config["distill_weight"], cola.config["distill_weight"]) == (2.0, 1.0)
    assert rte.config["num_experts"] == 8
    assert rte.fixed == {"distill_weight", "num_experts"}
    copy = tmp_path / "copy.yaml"
    copy.write_text(matrix_yaml(found))
    assert load_matrix(str(copy)) == found


def test_tasks_are_tuned_on_themselves_unless_another_decides(tmp_path):
    assert [plan.task.name for plan in one_each(tuned_cells(matrix(tmp_path, tuning={})))] == [
        "cola",
        "rte",
        "stsb",
    ]
    chosen = {"classification": "sst2", "rte": "rte[max_length=64]"}
    found = matrix(tmp_path, tuning={"tasks": chosen, "tries": 3})
    assert [plan.task.name for plan in one_each(tuned_cells(found))] == ["sst2", "rte", "stsb"]
    trials = matrix_trials(found)
    assert list(trials) == [
        (task, label) for task in ("sst2", "rte", "stsb") for label in ("teacher", "finetune", "moebert")
    ]
    assert trials["rte", "moebert"].plan.task.max_length == 64
    assert [dict(knobs) for knobs in trials["sst2", "moebert"].knobs] == [
        {"learning_rate": 5e-5, "distill_weight": 1.0},
        {"learning_rate": 3e-5, "distill_weight": 1.0},
        {"learning_rate": 5e-5, "distill_weight": 3.0},
    ]
    assert matrix_trials(matrix(tmp_path)) == {}


def test_a_try_has_at_most_its_own_steps_and_no_more_than_the_budget(tmp_path):
    tuning = {"tries": 1, "max_steps": 2000}
    for budget, expected in (({}, 2000), ({"max_steps": 50}, 50)):
        trials = matrix_trials(matrix(tmp_path, budget=budget, tuning=tuning))
        assert [plan.budget.max_steps for plan in trials["cola", "finetune"].plans()] == [expected]
    trials = matrix_trials(matrix(tmp_path, tuning=tuning | {"max_steps": None}))
    assert [plan.budget.max_steps for plan in trials["cola", "finetune"].plans()] == [None]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tuning": {"trys": 3}}, r"unknown key 'tuning.trys'; did you mean 'tries'\?"),
        ({"tuning": {"tries": 0}}, r"tuning.tries: .*greater than or equal to 1 \(got 0\)"),
        ({"tuning": {"rows": 1}}, r"tuning.rows: .*less than 1"),
        ({"tuning": {"learning_rates": []}}, r"tuning.learning_rates: .*at least 1"),
        (
            {"tuning": {"tasks": {"clasification": "sst2"}}},
            r"tuning.tasks: unknown .*'clasification'; did you mean 'cl",
        ),
        ({"tuning": {"tasks": {"cola": "sst3"}}}, r"unknown task 'sst3'; did you mean 'sst2'\?"),
        ({"by_task": {"ret": {}}}, r"by_task: unknown task 'ret'; did you mean 'rte'\?"),
        ({"by_task": {"rte": {"bugdet": {}}}}, r"unknown key 'by_task.rte.bugdet'; did you mean 'budget'\?"),
        (
            {"by_task": {"rte": {"budget": {"epoch": 1}}}},
            r"by_task.rte.budget: unknown key 'epoch'; did you mean 'ep",
        ),
        (
            {"by_task": {"rte": {"methods": {"moebrt": {}}}}},
            r"unknown method 'moebrt'; did you mean 'moebert'\?",
        ),
        (
            {"by_task": {"rte": {"methods": {"moebert": {"lambda": 1}}}}},
            r"method 'moebert': unknown key 'lambda'",
        ),
    ],
)
def test_bad_tuning_and_settings_are_named(tmp_path, keys, message):
    with pytest.raises(UserError, match=message):
        found = matrix(tmp_path, **keys)
        cells(found)
        tuned_cells(found)
