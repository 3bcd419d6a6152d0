"""Cut a dense BERT's feed-forward layers into experts (section 3.2 of the paper)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering, BertForSequenceClassification, BertModel, PreTrainedModel

from moebert.configuration import MoEBertConfig
from moebert.importance import dense_layers
from moebert.modeling import (
    MoEBertExperts,
    MoEBertForQuestionAnswering,
    MoEBertForSequenceClassification,
    MoEBertModel,
    MoEBertPreTrainedModel,
)
from moebert.routing import balanced_hash

Strategy = Literal["importance", "random", "inverse"]
STUDENT_CLASSES: dict[type[PreTrainedModel], type[MoEBertPreTrainedModel]] = {
    BertModel: MoEBertModel,
    BertForSequenceClassification: MoEBertForSequenceClassification,
    BertForQuestionAnswering: MoEBertForQuestionAnswering,
}
INHERITED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "num_labels")


def adapt(
    teacher: PreTrainedModel,
    config: MoEBertConfig,
    *,
    importance: Tensor | None = None,
    strategy: Strategy = "importance",
    token_frequency: Tensor | None = None,
) -> MoEBertPreTrainedModel:
    """Build the MoEBERT that starts from a dense BERT's weights; the head is copied with its class.

    The same arguments give the same student, whatever the state of the random generators.

    Args:
        teacher: A BertModel, BertForSequenceClassification or BertForQuestionAnswering; left unchanged.
        config: The student's, see MoEBertConfig.from_bert.
        importance: ``[layers, intermediate_size]`` from ffn_importance; not needed by "random".
        strategy: Which neurons rank first: the most important, random ones, or the least important.
        token_frequency: ``[vocabulary]`` counts of training tokens; needed by routing "hash-balanced".

    Raises:
        ValueError: If the arguments do not fit each other; the message says what would.
    """
    student_class = _student_class(teacher)
    _check_config(teacher, config)
    ranking = neuron_ranking(config, importance=importance, strategy=strategy)
    assigned = assign_neurons(ranking, config)
    config = deepcopy(config)
    config._attn_implementation = teacher.config._attn_implementation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.routing_seed)  # the gates' first weights
        student = student_class(config)
    student.to(device=teacher.device, dtype=teacher.dtype)
    _copy_dense_weights(teacher, student)
    for layer, dense, neurons in zip(_experts(student), dense_layers(teacher), assigned, strict=True):
        copy_neurons(dense, layer, neurons.to(teacher.device))
    _set_table(student, token_frequency)
    return student.train(teacher.training)


def neuron_ranking(config: MoEBertConfig, *, importance: Tensor | None, strategy: Strategy) -> Tensor:
    """Return the neurons of every layer, first rank first: ``[layers, intermediate_size]``, int64."""
    if strategy not in get_args(Strategy):
        raise ValueError(f"unknown strategy {strategy!r}; known: {', '.join(get_args(Strategy))}")
    expected = (config.num_hidden_layers, config.intermediate_size)
    if strategy == "random":
        generator = torch.Generator().manual_seed(config.routing_seed)
        return torch.stack([torch.randperm(expected[1], generator=generator) for _ in range(expected[0])])
    if importance is None:
        raise ValueError(f"strategy {strategy!r} ranks neurons by importance: pass importance, or strategy='random'")
    if tuple(importance.shape) != expected:
        raise ValueError(f"importance has shape {list(importance.shape)}; layers × neurons are {list(expected)}")
    if not torch.isfinite(importance).all():
        raise ValueError("importance holds values that are not finite")
    return importance.cpu().argsort(dim=1, descending=strategy == "importance", stable=True)


def assign_neurons(ranking: Tensor, config: MoEBertConfig) -> Tensor:
    """Deal ranked neurons to experts: the first s to all, the rest in turn.

    Expert e (from 1) gets ranks 1..s and s + e, s + e + N, …, cut to its size.

    Args:
        ranking: ``[layers, intermediate_size]``, neurons by rank.
        config: Its sizes decide.

    Returns:
        ``[layers, experts, size]``, int64.
    """
    experts, size, shared = config.num_experts, config.expert_size, config.shared_size
    needed, available = shared + experts * (size - shared), ranking.shape[1]
    if needed > available:
        most = shared + (available - shared) // experts
        raise ValueError(
            f"{experts} experts of {size} neurons, {shared} of them shared, need {needed} of {available} neurons; "
            f"what fits: expert_intermediate_size up to {most}, or shared_neurons from {_least_shared(config)}"
        )
    common = ranking[:, :shared].unsqueeze(1).expand(-1, experts, -1)
    dealt = ranking[:, shared:needed].unflatten(1, (size - shared, experts)).transpose(1, 2)
    return torch.cat([common, dealt], dim=2)


@torch.no_grad()
def copy_neurons(dense: nn.Module, experts: MoEBertExperts, neurons: Tensor) -> None:
    """Fill a layer's experts with neurons ``[experts, size]`` of a dense layer; b2 and LayerNorm go to all."""
    up, down, norm = dense.intermediate.dense, dense.output.dense, dense.output.LayerNorm
    experts.up_weight.copy_(up.weight[neurons])
    experts.up_bias.copy_(up.bias[neurons])
    experts.down_weight.copy_(down.weight.t()[neurons].transpose(1, 2))
    experts.down_bias.copy_(down.bias.expand_as(experts.down_bias))
    experts.layernorm_weight.copy_(norm.weight.expand_as(experts.layernorm_weight))
    experts.layernorm_bias.copy_(norm.bias.expand_as(experts.layernorm_bias))
    experts.neuron_indices.copy_(neurons)


def _least_shared(config: MoEBertConfig) -> int:
    """Return the fewest shared neurons with which experts of the asked size can be cut."""
    experts, size, available = config.num_experts, config.expert_size, config.intermediate_size
    if experts == 1:
        return 0
    return max(0, -(-(experts * size - available) // (experts - 1)))


def _student_class(teacher: PreTrainedModel) -> type[MoEBertPreTrainedModel]:
    for teacher_class, student_class in STUDENT_CLASSES.items():
        if isinstance(teacher, teacher_class):
            return student_class
    known = ", ".join(teacher_class.__name__ for teacher_class in STUDENT_CLASSES)
    raise ValueError(f"cannot adapt a {type(teacher).__name__}; known: {known}")


def _check_config(teacher: PreTrainedModel, config: MoEBertConfig) -> None:
    for name in INHERITED:
        ours, theirs = getattr(config, name), getattr(teacher.config, name)
        if ours != theirs:
            raise ValueError(
                f"config.{name} is {ours} and the teacher's is {theirs}; "
                "make the config with MoEBertConfig.from_bert(teacher.config, …)"
            )


def _copy_dense_weights(teacher: PreTrainedModel, student: MoEBertPreTrainedModel) -> None:
    """Copy everything but the feed-forward layers."""
    own = student.state_dict()
    theirs = teacher.state_dict()
    unknown = [name for name in theirs if name not in own and not _is_feed_forward(name)]
    if unknown:
        raise ValueError(f"the teacher has weights that MoEBERT does not know: {', '.join(unknown)}")
    student.load_state_dict({name: value for name, value in theirs.items() if name in own}, strict=False)


def _is_feed_forward(name: str) -> bool:
    return ".intermediate." in name or (".output." in name and ".attention." not in name)


def _experts(student: MoEBertPreTrainedModel) -> list[MoEBertExperts]:
    return [layer.experts for layer in student.base_model.encoder.layer]


def _set_table(student: Any, token_frequency: Tensor | None) -> None:
    config = student.config
    if config.routing != "hash-balanced":
        return
    if token_frequency is None:
        raise ValueError("routing 'hash-balanced' needs token_frequency: counts of training tokens [vocabulary]")
    if tuple(token_frequency.shape) != (config.vocab_size,) or bool((token_frequency < 0).any()):
        raise ValueError(
            f"token_frequency must hold {config.vocab_size} counts from 0; "
            f"it has shape {list(token_frequency.shape)} and least value {token_frequency.min().item()}"
        )
    table = student.base_model.router.table
    table.copy_(balanced_hash(token_frequency.cpu(), config.num_experts).expand_as(table))
