from __future__ import annotations

import subprocess
import sys

import pytest

from bench.tasks import heads


def test_every_head_builds_models_with_its_auto_class() -> None:
    from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

    assert heads.auto_model_class("classification") is AutoModelForSequenceClassification
    assert heads.auto_model_class("regression") is AutoModelForSequenceClassification
    assert heads.auto_model_class("extractive-qa") is AutoModelForQuestionAnswering


def test_importing_the_heads_is_cheap() -> None:
    code = (
        "import sys, bench.tasks.heads;"
        "print(sorted({'torch', 'transformers', 'tokenizers', 'datasets', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["accuracy", "matthews", "f1", "pearson", "spearman"])
def test_sequence_scores_are_functions_of_the_metrics(name: str) -> None:
    from bench import metrics

    assert callable(getattr(metrics, name))
