"""MoEBERT: from BERT to a mixture of experts by importance-guided adaptation (Zuo et al., NAACL 2022)."""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
)

from moebert.adaptation import adapt
from moebert.configuration import MoEBertConfig
from moebert.growth import grow
from moebert.importance import ffn_importance
from moebert.modeling import MoEBertForQuestionAnswering, MoEBertForSequenceClassification, MoEBertModel
from moebert.routing import routing_statistics

__all__ = [
    "MoEBertConfig",
    "MoEBertForQuestionAnswering",
    "MoEBertForSequenceClassification",
    "MoEBertModel",
    "adapt",
    "ffn_importance",
    "grow",
    "routing_statistics",
]

AutoConfig.register(MoEBertConfig.model_type, MoEBertConfig, exist_ok=True)
AutoModel.register(MoEBertConfig, MoEBertModel, exist_ok=True)
AutoModelForSequenceClassification.register(MoEBertConfig, MoEBertForSequenceClassification, exist_ok=True)
AutoModelForQuestionAnswering.register(MoEBertConfig, MoEBertForQuestionAnswering, exist_ok=True)
