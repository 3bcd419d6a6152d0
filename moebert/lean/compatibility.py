"""Say what keeps a model from the lean encoder: it runs modules that it knows, and guesses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import BertForQuestionAnswering, BertForSequenceClassification, BertModel
from transformers.activations import ACT2FN
from transformers.models.bert import modeling_bert as bert

from moebert.layers import MoEBertEncoder, MoEBertExperts, MoEBertLayer
from moebert.modeling import MoEBertForQuestionAnswering, MoEBertForSequenceClassification, MoEBertModel
from moebert.routing import Gate, HashRouter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODELS: tuple[Any, ...] = (
    BertModel,
    BertForSequenceClassification,
    BertForQuestionAnswering,
    MoEBertModel,
    MoEBertForSequenceClassification,
    MoEBertForQuestionAnswering,
)
MODULES: tuple[type, ...] = (
    bert.BertEmbeddings,
    bert.BertEncoder,
    bert.BertLayer,
    bert.BertAttention,
    bert.BertSelfAttention,
    bert.BertSelfOutput,
    bert.BertIntermediate,
    bert.BertOutput,
    bert.BertPooler,
    MoEBertEncoder,
    MoEBertLayer,
    MoEBertExperts,
    HashRouter,
    Gate,
    nn.ModuleList,
    nn.Linear,
    nn.Embedding,
    nn.LayerNorm,
    nn.Dropout,
    nn.Tanh,
    type(ACT2FN["gelu"]),
)
HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def why_not_lean(model: PreTrainedModel) -> str | None:
    """Return what the lean encoder does not know about a model, None if it can run it."""
    if not isinstance(model, MODELS):
        return f"{type(model).__name__} is neither a BERT nor a MoEBERT"
    known = {kind.forward for kind in MODELS}
    for name, module in model.named_modules():
        where = f"{type(module).__name__} {name!r}" if name else type(module).__name__
        # a model may subclass one that is known, to describe other sizes say, as long as it computes the same
        if isinstance(module, MODELS):
            if type(module).forward not in known:
                return f"{where} has a forward of its own"
        elif type(module) not in MODULES:
            return f"{where} is of a kind that it does not know"
        if getattr(module, "bias", module) is None:
            return f"{where} has no bias"
        if "forward" in vars(module):
            return f"{where} has a forward of its own"
        if any(not _only_observes(hook) for hooks in HOOKS for hook in getattr(module, hooks).values()):
            return f"{where} has forward hooks"
    return _why_not_configured(model.config)


def _only_observes(hook: Any) -> bool:
    """Recognise transformers' own hooks, which keep hidden states for those who ask."""
    return str(getattr(hook, "__module__", "")).startswith("transformers.")


def _why_not_configured(config: Any) -> str | None:
    positions = getattr(config, "position_embedding_type", "absolute")
    if positions != "absolute":
        return f"it knows no position embeddings but absolute ones, this model's are {positions!r}"
    if config.is_decoder or config.add_cross_attention:
        return "it is an encoder, this model a decoder"
    return None
