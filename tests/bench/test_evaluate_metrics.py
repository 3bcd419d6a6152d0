from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import metrics

CODES = {"predictions": [0, 1, 1, 0, 1], "references": [0, 1, 0, 0, 1]}
VALUES = {"predictions": [0.5, 1.5, 3.0, 2.0], "references": [1.0, 2.0, 2.5, 4.0]}


@pytest.fixture(scope="module")
def adapters():
    """The module, imported once: it takes seconds."""
    from bench import evaluate_metrics

    return evaluate_metrics


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews", "pearson", "spearman"])
def test_a_metric_computes_what_the_function_does(adapters, tmp_path: Path, name: str) -> None:
    inputs = VALUES if name in ("pearson", "spearman") else CODES
    metric = adapters.METRICS[name](cache_dir=str(tmp_path))
    function = getattr(metrics, name)
    expected = function(np.array(inputs["predictions"]), np.array(inputs["references"]))
    assert metric.compute(**inputs) == {name: pytest.approx(expected)}
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_metric_adds_batches_and_tensors(adapters, tmp_path: Path) -> None:
    import torch

    metric = adapters.METRICS["accuracy"](cache_dir=str(tmp_path))
    metric.add_batch(predictions=torch.tensor([1, 0]), references=torch.tensor([1, 1]))
    metric.add_batch(predictions=np.array([1]), references=[1])
    assert metric.compute() == {"accuracy": pytest.approx(2 / 3)}


def test_metrics_combine(adapters, tmp_path: Path) -> None:
    import evaluate

    both = evaluate.combine([adapters.METRICS[name](cache_dir=str(tmp_path)) for name in ("accuracy", "f1")])
    assert both.compute(**CODES) == {"accuracy": pytest.approx(0.8), "f1": pytest.approx(0.8)}


def test_squad_takes_several_references(adapters, tmp_path: Path) -> None:
    metric = adapters.METRICS["squad"](cache_dir=str(tmp_path))
    found = metric.compute(predictions=["the cat", "big dog"], references=[["cat", "owl"], ["dog"]])
    assert found["exact_match"] == pytest.approx(0.5)
    assert found["f1"] == pytest.approx((1 + 2 / 3) / 2)


def test_squad_v2_takes_questions_without_an_answer(adapters, tmp_path: Path) -> None:
    metric = adapters.METRICS["squad-v2"](cache_dir=str(tmp_path))
    predictions = [{"text": "cat", "null_difference": -1.0}, {"text": "dog", "null_difference": 2.0}]
    found = metric.compute(predictions=predictions, references=[["cat"], []])
    assert found["exact_match"] == found["no_answer_f1"] == found["best_f1"] == 1
