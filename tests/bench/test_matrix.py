from __future__ import annotations

import math

import pytest
import yaml

from bench.errors import UserError
from bench.matrix import Choice, Matrix, load_matrix, matrix_yaml, parse_choice, presets
from bench.plans import cells, configure


def write(folder, **keys):
    file = folder / "some.yaml"
    file.write_text(yaml.safe_dump({"tasks": ["rotten-tomatoes"], "methods": ["finetune"]} | keys))
    return str(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("moebert", {"moebert": {}}),
        ("moebert[]", {"moebert": {}}),
        ("moebert[num_experts=8]", {"moebert": {"num_experts": 8}}),
        ("m[a=1e-4, b=true,c=x,d=]", {"m": {"a": 1e-4, "b": True, "c": "x", "d": None}}),
        ("./my task.yaml[train=train-part]", {"./my task.yaml": {"train": "train-part"}}),
    ],
)
def test_choices_are_read(text, expected):
    assert parse_choice(text) == expected


@pytest.mark.parametrize("text", ["m[a]", "m[=1]", "m[a=1", "[a=1]", "", "m]a["])
def test_what_is_no_choice_is_refused(text):
    with pytest.raises(UserError, match=r"write name"):
        parse_choice(text)


def test_every_preset_is_valid_and_comes_back_from_its_own_yaml(tmp_path):
    assert "quickstart" in presets()
    for name in presets():
        matrix = load_matrix(name)
        assert matrix.name == name
        assert matrix.summary
        assert cells(matrix)
        copy = tmp_path / f"{name}.yaml"
        copy.write_text(matrix_yaml(matrix))
        assert load_matrix(str(copy)) == matrix


def test_the_matrix_is_multiplied_out_in_the_order_listed(tmp_path):
    file = write(tmp_path, methods=["finetune", {"distilbert": {}}], seeds=[3, 1])
    plans = cells(load_matrix(file))
    assert [(plan.method, plan.seed) for plan in plans] == [
        ("finetune", 3),
        ("distilbert", 3),
        ("finetune", 1),
        ("distilbert", 1),
    ]
    assert plans[0].config == {"layers": None}


def test_a_method_listed_twice_is_told_apart_by_its_knobs(tmp_path):
    file = write(tmp_path, methods=["finetune[layers=1]", "finetune[layers=2]", "distilbert"])
    assert [plan.label for plan in cells(load_matrix(file))] == [
        "finetune[layers=1]",
        "finetune[layers=2]",
        "distilbert",
    ]


def test_overrides_replace_lists(tmp_path):
    matrix = load_matrix(
        write(tmp_path), {"methods": ["distilbert", "tinybert[hidden_size=16]"], "seeds": [7]}
    )
    assert [choice.name for choice in matrix.methods] == ["distilbert", "tinybert"]
    assert matrix.seeds == (7,)


def test_a_method_may_have_a_learning_rate_of_its_own(tmp_path):
    config, rate = configure(Choice(name="finetune", options={"learning_rate": 1e-3}))
    assert rate == 1e-3
    assert "learning_rate" not in config
    for rate in ("fast", -1, math.inf, math.nan):
        with pytest.raises(UserError, match="learning_rate must be a positive number"):
            configure(Choice(name="finetune", options={"learning_rate": rate}))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sedes": [1]}, r"unknown key 'sedes'; did you mean 'seeds'\?"),
        ({"budget": {"epoch": 1}}, r"unknown key 'budget.epoch'; did you mean 'epochs'\?"),
        ({"budget": {"learning_rate": math.inf}}, r"budget.learning_rate: .*finite"),
        ({"latency": {"round": 1}}, r"unknown key 'latency\.0\.round'; did you mean 'rounds'\?"),
        ({"budget": {"epochs": -1}}, r"budget.epochs: .*greater than 0 \(got -1\)"),
        ({"budget": {"batch_size": "many"}}, r"budget.batch_size: .*integer.*'many'"),
        ({"seeds": []}, r"seeds: .*at least 1"),
        ({"seeds": [-1]}, r"seeds.0: "),
        ({"methods": []}, r"methods: .*at least 1"),
        ({"methods": [{"a": {}, "b": {}}]}, r"methods.0: write one name"),
        ({"name": "../elsewhere"}, r"name: "),
        ({"precision": "fp8"}, r"precision: .*'fp32'"),
    ],
)
def test_bad_keys_and_values_are_named(tmp_path, keys, message):
    with pytest.raises(UserError, match=message):
        load_matrix(write(tmp_path, **keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"methods": ["moebrt"]}, r"unknown method 'moebrt'; did you mean 'moebert'\?"),
        ({"tasks": ["roten-tomatoes"]}, r"unknown task 'roten-tomatoes'; did you mean 'rotten-tomatoes'\?"),
        (
            {"methods": ["finetune[layer=2]"]},
            r"method 'finetune': unknown key 'layer'; did you mean 'layers'\?",
        ),
        ({"methods": ["finetune[layers=0]"]}, r"method 'finetune': layers: .*greater than or equal to 1"),
        (
            {"tasks": ["rotten-tomatoes", "rotten-tomatoes[max_length=64]"]},
            r"'rotten-tomatoes' is listed 2 times",
        ),
        ({"methods": ["finetune", "finetune"]}, r"finetune on rotten-tomatoes at seed 0 is listed twice"),
    ],
)
def test_bad_methods_and_tasks_are_named(tmp_path, keys, message):
    with pytest.raises(UserError, match=message):
        cells(load_matrix(write(tmp_path, **keys)))


def test_an_unknown_preset_gets_a_suggestion():
    with pytest.raises(UserError, match=r"unknown preset 'quikstart'; did you mean 'quickstart'\?"):
        load_matrix("quikstart")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tasks: [", "not readable as YAML"),
        ("- a list", "a matrix is a mapping"),
        ("tasks: !!python/object/apply:os.system ['true']", "not readable as YAML"),
        ("methods: [finetune]", "missing key 'tasks'"),
    ],
)
def test_files_that_are_no_matrix_are_refused(tmp_path, content, message):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        load_matrix(str(file))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.yaml: no such file"):
        load_matrix(str(tmp_path / "nowhere.yaml"))


def test_a_matrix_cannot_be_changed_by_accident():
    matrix = load_matrix("quickstart")
    with pytest.raises(ValueError, match="frozen"):
        Matrix.__setattr__(matrix, "seeds", (1,))
