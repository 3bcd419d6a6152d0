"""Cut a dense BERT's feed-forward networks into experts (section 3.2 of the paper)."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from transformers import BertForQuestionAnswering, BertForSequenceClassification, BertModel

from moebert.importance import dense_layers
from moebert.modeling import (
    MoEBertForQuestionAnswering,
    MoEBertForSequenceClassification,
    MoEBertModel,
    MoEBertPreTrainedModel,
)
from moebert.routing import balanced_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from moebert.configuration import MoEBertConfig
    from moebert.layers import MoEBertExperts

Strategy = Literal["importance", "random", "inverse"]
STUDENT_OF: dict[type[PreTrainedModel], type[MoEBertPreTrainedModel]] = {
    BertModel: MoEBertModel,
    BertForSequenceClassification: MoEBertForSequenceClassification,
    BertForQuestionAnswering: MoEBertForQuestionAnswering,
}
SAME_AS_TEACHER = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "max_position_embeddings",
    "type_vocab_size",
    "num_labels",
)


def adapt(
    teacher: PreTrainedModel,
    config: MoEBertConfig,
    *,
    importance: Tensor | None = None,
    strategy: Strategy = "importance",
    token_frequency: Tensor | None = None,
) -> MoEBertPreTrainedModel:
    """Build the MoEBERT that starts from a dense BERT; its head is the teacher's.

    The same arguments give the same student, whatever the state of the random generators.

    Args:
        teacher: A BertModel, BertForSequenceClassification or BertForQuestionAnswering; stays as it is.
        config: The student's, from MoEBertConfig.from_bert; stays as it is.
        importance: ``[layers, intermediate_size]``, from ffn_importance; strategy "random" needs none.
        strategy: Which neurons rank first: the most important, any, or the least important.
        token_frequency: ``[vocabulary]``, counts of training tokens; routing "hash-balanced" needs them.

    Raises:
        ValueError: If the arguments do not fit each other; the message says what fits.
    """
    student_class = _student_class(teacher)
    check_same_shape(teacher, config)
    assigned = assign_neurons(rank_neurons(config, importance, strategy), config)
    table = _balanced_table(config, token_frequency) if config.routing == "hash-balanced" else None
    student = fresh_model(student_class, config, attn_implementation=teacher.config._attn_implementation)
    student.to(device=teacher.device, dtype=teacher.dtype)
    _copy_all_but_feed_forward(teacher, student)
    for experts, dense, neurons in zip(expert_layers(student), dense_layers(teacher), assigned, strict=True):
        copy_neurons(dense, experts, neurons)
    if table is not None:
        student.base_model.router.table.copy_(table)
    student.train(teacher.training)
    return student


def rank_neurons(config: MoEBertConfig, importance: Tensor | None, strategy: Strategy) -> Tensor:
    """Return each layer's neurons by rank, the first first: ``[layers, intermediate_size]``, int64."""
    layers, neurons = config.num_hidden_layers, config.intermediate_size
    if strategy not in get_args(Strategy):
        raise ValueError(f"unknown strategy {strategy!r}; known: {', '.join(get_args(Strategy))}")
    if strategy == "random":
        generator = torch.Generator().manual_seed(config.routing_seed)
        return torch.stack([torch.randperm(neurons, generator=generator) for _ in range(layers)])
    if importance is None:
        raise ValueError(f"strategy {strategy!r} needs importance (see ffn_importance); 'random' needs none")
    if tuple(importance.shape) != (layers, neurons):
        raise ValueError(
            f"importance has shape {list(importance.shape)}; the model needs [{layers}, {neurons}]"
        )
    if not importance.isfinite().all():
        raise ValueError("importance must be finite everywhere")
    return importance.cpu().argsort(dim=1, descending=strategy == "importance", stable=True)


def assign_neurons(ranked: Tensor, config: MoEBertConfig) -> Tensor:
    """Deal neurons to experts by rank: 1 … s to all, then s + e, s + e + N, … to expert e of N.

    Args:
        ranked: ``[layers, intermediate_size]``, neurons by rank.
        config: Number and size of the experts, and s.

    Returns:
        ``[layers, experts, size]``, int64.
    """
    experts, size, shared = config.num_experts, config.expert_size, config.shared_size
    needed, available = shared + experts * (size - shared), config.intermediate_size
    if needed > available:
        raise ValueError(
            f"{experts} experts of {size} neurons of which {shared} are shared need {needed} neurons and there are "
            f"{available}; what fits: {_what_fits(experts, size, shared, available)}"
        )
    common = ranked[:, None, :shared].expand(-1, experts, -1)
    own = ranked[:, shared:needed].reshape(len(ranked), size - shared, experts).transpose(1, 2)
    return torch.cat([common, own], dim=2)


@torch.no_grad()
def copy_neurons(dense: Any, experts: MoEBertExperts, neurons: Tensor, *, first: int = 0) -> None:
    """Fill the experts from ``first`` on with neurons ``[experts, size]`` of a dense layer.

    b2 and the LayerNorm go to each of them.
    """
    up, down, norm = dense.intermediate.dense, dense.output.dense, dense.output.LayerNorm
    neurons = neurons.to(up.weight.device)
    experts.up_weight[first:] = up.weight[neurons].transpose(1, 2)
    experts.up_bias[first:] = up.bias[neurons]
    experts.down_weight[first:] = down.weight.t()[neurons]
    experts.down_bias[first:] = down.bias
    experts.layernorm_weight[first:] = norm.weight
    experts.layernorm_bias[first:] = norm.bias
    experts.neuron_indices[first:] = neurons


def check_same_shape(teacher: PreTrainedModel, config: MoEBertConfig) -> None:
    """Refuse a configuration that is not of the teacher's shape."""
    for name in SAME_AS_TEACHER:
        ours, theirs = getattr(config, name), getattr(teacher.config, name)
        if ours != theirs:
            raise ValueError(
                f"config.{name} is {ours} but the teacher's is {theirs}; use MoEBertConfig.from_bert(teacher.config)"
            )


def check_frequency(token_frequency: Tensor, vocab_size: int) -> None:
    """Refuse what are no counts of a vocabulary's tokens."""
    if tuple(token_frequency.shape) != (vocab_size,):
        raise ValueError(f"token_frequency has shape {list(token_frequency.shape)}; it needs [{vocab_size}]")
    if not token_frequency.isfinite().all() or (token_frequency < 0).any() or not token_frequency.any():
        raise ValueError("token_frequency must hold counts from 0, not all of them 0")


def expert_layers(student: PreTrainedModel) -> list[MoEBertExperts]:
    """Return the experts of every layer of a MoEBERT, first to last."""
    encoder: Any = student.base_model.encoder
    return [layer.experts for layer in encoder.layer]


def fresh_model(
    student_class: type[MoEBertPreTrainedModel], config: MoEBertConfig, *, attn_implementation: str
) -> MoEBertPreTrainedModel:
    """Make a model with first weights that depend on the configuration alone."""
    config = deepcopy(config)
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the generators of all GPUs as well
        torch.default_generator.manual_seed(config.routing_seed)
        return student_class(config)


def _what_fits(experts: int, size: int, shared: int, available: int) -> str:
    """List the single changes that leave neurons enough, or the change of both sizes where there is none."""
    fits = []
    largest = shared + (available - shared) // experts
    if largest >= max(shared, 1):
        fits.append(f"expert_intermediate_size up to {largest}")
    if experts > 1 and size <= available:
        fits.append(f"shared_neurons from {-((available - experts * size) // (experts - 1))} up")
    if size > shared and available >= size:
        fits.append(f"num_experts up to {(available - shared) // (size - shared)}")
    return ", or ".join(fits) or f"expert_intermediate_size and shared_neurons up to {available}"


def _student_class(teacher: PreTrainedModel) -> type[MoEBertPreTrainedModel]:
    for teacher_class, student_class in STUDENT_OF.items():
        if isinstance(teacher, teacher_class):
            return student_class
    known = ", ".join(teacher_class.__name__ for teacher_class in STUDENT_OF)
    raise ValueError(f"cannot adapt a {type(teacher).__name__}; known: {known}")


def _copy_all_but_feed_forward(teacher: PreTrainedModel, student: MoEBertPreTrainedModel) -> None:
    ours, theirs = student.state_dict(), teacher.state_dict()
    left = {
        name
        for name in theirs
        if ".intermediate." in name or (".output." in name and ".attention." not in name)
    }
    copied = {name: value for name, value in theirs.items() if name not in left}
    if unknown := sorted(copied.keys() - ours.keys()):
        raise ValueError(f"the teacher has weights that a MoEBERT has no place for: {', '.join(unknown)}")
    split = (".experts.", ".gate.", "router.")
    if missing := sorted(name for name in ours.keys() - copied.keys() if not any(s in name for s in split)):
        raise ValueError(f"the teacher lacks weights that a MoEBERT has: {', '.join(missing)}")
    student.load_state_dict(copied, strict=False)


def _balanced_table(config: MoEBertConfig, token_frequency: Tensor | None) -> Tensor:
    """Return ``[vocabulary]``; each layer has the same table, as in the paper's code."""
    if token_frequency is None:
        raise ValueError("routing 'hash-balanced' needs token_frequency, counts of training tokens by id")
    check_frequency(token_frequency, config.vocab_size)
    return balanced_hash(token_frequency.cpu(), config.num_experts)
