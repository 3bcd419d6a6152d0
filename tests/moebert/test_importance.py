from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertForTokenClassification, BertModel

from moebert import ffn_importance


def importance_by_loop(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Follow Eq. 4 to the letter: one unpadded sample at a time, gradients of the weights, the model's own loss."""
    scores = torch.zeros(model.config.num_hidden_layers, model.config.intermediate_size, dtype=torch.float64)
    for index, mask in enumerate(batch["attention_mask"]):
        length = int(mask.sum())
        sample = {
            name: value[index : index + 1, :length] if value.dim() == 2 else value[index : index + 1]
            for name, value in batch.items()
        }
        if sample.get("labels", mask).is_floating_point():
            sample["labels"] = sample["labels"].to(model.dtype)  # some versions of transformers do not
        floats = {name: value.to(model.dtype) for name, value in sample.items() if value.is_floating_point()}
        model.zero_grad()
        model(**sample | floats).loss.backward()
        for row, layer in zip(scores, model.bert.encoder.layer, strict=True):
            w1, w2 = layer.intermediate.dense.weight, layer.output.dense.weight
            row += ((w1 * w1.grad).sum(1) + (w2 * w2.grad).sum(0)).abs().detach()
    return scores


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def test_one_backward_a_batch_equals_a_loop_over_samples(
    make_teacher: Any, make_batch: Any, head: str
) -> None:
    model, batches = make_teacher(head), [make_batch(head), make_batch(head, batch=1, length=5)]
    expected = sum(importance_by_loop(model, batch) for batch in batches)
    found = ffn_importance(model, batches)
    assert found.dtype == torch.float64
    assert relative_error(found, expected) < 1e-10


def test_the_same_in_single_precision(make_teacher: Any, make_batch: Any, head: str) -> None:
    model, batch = make_teacher(head, torch.float32), make_batch(head)
    expected = importance_by_loop(model.double(), batch)
    assert relative_error(ffn_importance(model.float(), [batch]), expected) < 1e-5


def test_how_samples_are_batched_does_not_matter(make_teacher: Any, make_batch: Any, head: str) -> None:
    model, batch = make_teacher(head), make_batch(head)
    singles = [{name: value[index : index + 1] for name, value in batch.items()} for index in range(6)]
    torch.testing.assert_close(
        ffn_importance(model, singles), ffn_importance(model, [batch]), rtol=1e-10, atol=0
    )


def test_padding_contributes_nothing(make_teacher: Any, make_batch: Any, head: str) -> None:
    model, batch = make_teacher(head), make_batch(head)
    padded = {
        name: torch.nn.functional.pad(value, (0, 7)) if value.dim() == 2 else value
        for name, value in batch.items()
    }
    torch.testing.assert_close(
        ffn_importance(model, [padded]), ffn_importance(model, [batch]), rtol=1e-10, atol=0
    )


def test_a_missing_mask_means_no_padding(make_teacher: Any, make_batch: Any) -> None:
    model, batch = make_teacher(), make_batch()
    batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    expected = ffn_importance(model, [batch])
    del batch["attention_mask"]
    torch.testing.assert_close(ffn_importance(model, [batch]), expected)


def test_a_frozen_teacher_in_training_mode_gives_the_same_and_is_left_as_it_was(
    make_teacher: Any, make_batch: Any
) -> None:
    model, batch = make_teacher(), make_batch()
    expected = ffn_importance(model, [batch])
    model.requires_grad_(False).train()
    with torch.no_grad():
        assert torch.equal(ffn_importance(model, [batch]), expected)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_neuron_without_effect_has_no_importance(make_teacher: Any, make_batch: Any) -> None:
    model = make_teacher()
    with torch.no_grad():
        model.bert.encoder.layer[1].intermediate.dense.weight[7] = 0
        model.bert.encoder.layer[1].output.dense.weight[:, 7] = 0
    scores = ffn_importance(model, [make_batch()])
    assert scores[1, 7] == 0
    assert (scores[1] > 0).sum() == scores.shape[1] - 1


def bytes_of_tensors() -> int:
    gc.collect()
    alive = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in alive}.values())


def test_memory_grows_with_the_batch_and_not_with_the_data_set(make_teacher: Any, make_batch: Any) -> None:
    held: list[int] = []

    def batches() -> Iterator[dict[str, Tensor]]:
        for _ in range(6):
            yield make_batch()
            held.append(bytes_of_tensors())

    ffn_importance(make_teacher(), batches())
    assert len(set(held[1:])) == 1, f"bytes after each batch: {held}"


def test_bfloat16_keeps_the_order_of_magnitude(make_teacher: Any, make_batch: Any) -> None:
    model, batch = make_teacher(), make_batch()
    expected = ffn_importance(model, [batch])
    assert relative_error(ffn_importance(model.bfloat16(), [batch]), expected) < 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
def test_bfloat16_on_cuda_against_the_loop_in_double_precision(
    make_teacher: Any, make_batch: Any, head: str, autocast: bool
) -> None:
    model, batch = make_teacher(head), make_batch(head, batch=32)
    expected = importance_by_loop(model, batch)
    on_gpu = model.to("cuda", torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        found = ffn_importance(on_gpu, [batch])
    assert found.dtype == torch.float64
    assert found.device.type == "cpu"
    assert relative_error(found, expected) < 0.1
    kept = [set(scores.topk(12).indices.tolist()) for scores in (*found, *expected)]
    assert all(len(ours & theirs) >= 9 for ours, theirs in zip(kept[:3], kept[3:], strict=True))


def test_no_batch_is_an_error(make_teacher: Any) -> None:
    with pytest.raises(ValueError, match="training batches"):
        ffn_importance(make_teacher(), [])


def test_a_batch_without_labels_is_an_error(make_teacher: Any, make_batch: Any) -> None:
    batch = make_batch()
    del batch["labels"]
    with pytest.raises(ValueError, match=r"needs labels.*input_ids"):
        ffn_importance(make_teacher(), [batch])


def test_a_span_head_asks_for_spans(make_teacher: Any, make_batch: Any) -> None:
    with pytest.raises(ValueError, match=r"needs start_positions and end_positions; .*labels"):
        ffn_importance(make_teacher("span"), [make_batch()])


@pytest.mark.parametrize("model_class", [BertModel, BertForTokenClassification])
def test_a_model_without_a_sequence_or_span_head_is_an_error(
    bert_config: Any, make_batch: Any, model_class: Any
) -> None:
    with pytest.raises(ValueError, match="needs a sequence or span head; the model gives"):
        ffn_importance(model_class(bert_config()), [make_batch()])


def test_a_moebert_has_no_dense_neurons(make_student: Any, make_batch: Any) -> None:
    with pytest.raises(ValueError, match="not a dense BERT"):
        ffn_importance(make_student("hash-random"), [make_batch()])
