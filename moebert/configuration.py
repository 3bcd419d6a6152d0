"""The configuration of a MoEBERT model."""

from __future__ import annotations

from math import isfinite
from typing import Any, Literal, cast, get_args

from transformers import BertConfig

Routing = Literal["hash-random", "hash-balanced", "gate-token", "gate-sentence"]
MAX_EXPERTS = 64


class MoEBertConfig(BertConfig):
    """Describe a BERT whose feed-forward layers are split into experts, one visited by each token.

    The fields of BertConfig keep their meaning; ``intermediate_size`` stays that of the dense model
    from which the experts are cut.

    Attributes:
        num_experts: Experts of every layer (N in the paper).
        expert_intermediate_size: Neurons of one expert. None: a quarter of ``intermediate_size``.
        shared_neurons: Most important neurons that every expert holds (s). None: a sixth of
            ``intermediate_size``; never more than the expert has.
        routing: How a token finds its expert (section 3.1 of the paper).
        expert_dropout: Dropout after an expert's second product, before its residual.
        routing_seed: Fixes the random hash, the random split and the gates' first weights.
        balance_loss_weight: Weight of the gates' balance loss in ``outputs.loss``. The paper gives
            none; the default is that of the Switch Transformer (Fedus et al., 2022).
    """

    model_type = "moebert"
    keys_to_ignore_at_inference = ["hidden_states", "attentions", "balance_loss", "router_logits"]  # noqa: RUF012

    num_experts: int = 4
    expert_intermediate_size: int | None = None
    shared_neurons: int | None = None
    routing: str = "hash-random"
    expert_dropout: float | int = 0.1
    routing_seed: int = 0
    balance_loss_weight: float | int = 0.01

    def __post_init__(self, **kwargs: Any) -> None:
        if self.expert_intermediate_size is None:
            self.expert_intermediate_size = max(1, self.intermediate_size // 4)
        if self.shared_neurons is None:
            self.shared_neurons = min(self.intermediate_size // 6, self.expert_intermediate_size)
        self._check()
        super().__post_init__(**kwargs)

    @classmethod
    def from_bert(
        cls,
        bert_config: BertConfig,
        *,
        num_experts: int = 4,
        expert_intermediate_size: int | None = None,
        shared_neurons: int | None = None,
        routing: Routing = "hash-random",
        expert_dropout: float = 0.1,
        routing_seed: int = 0,
        balance_loss_weight: float = 0.01,
    ) -> MoEBertConfig:
        """Describe the MoEBERT that is cut from a BERT of the given configuration.

        The defaults are the paper's: at BERT-base 4 experts of 768 neurons, 512 of them shared. Of a MoEBertConfig
        only what it says of the dense model is taken.

        Raises:
            ValueError: Naming the option that does not fit and what would.
        """
        inherited = bert_config.to_dict()
        for key in ("model_type", "architectures", "transformers_version", "_name_or_path"):
            inherited.pop(key, None)
        own = {
            "num_experts": num_experts,
            "expert_intermediate_size": expert_intermediate_size,
            "shared_neurons": shared_neurons,
            "routing": routing,
            "expert_dropout": expert_dropout,
            "routing_seed": routing_seed,
            "balance_loss_weight": balance_loss_weight,
        }
        return cls(**(inherited | own))

    @property
    def expert_size(self) -> int:
        """Return the neurons of one expert, resolved."""
        return cast("int", self.expert_intermediate_size)

    @property
    def shared_size(self) -> int:
        """Return the neurons that every expert holds, resolved."""
        return cast("int", self.shared_neurons)

    def _check(self) -> None:
        for name in ("num_experts", "expert_intermediate_size", "shared_neurons", "routing_seed"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole:
                raise ValueError(f"{name} is {value!r}; it must be a whole number")
        for name in ("expert_dropout", "balance_loss_weight"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not isfinite(value):
                raise ValueError(f"{name} is {value!r}; it must be a finite number")
        known = get_args(Routing)
        if self.routing not in known:
            raise ValueError(f"unknown routing {self.routing!r}; known: {', '.join(known)}")
        if not 1 <= self.num_experts <= MAX_EXPERTS:
            raise ValueError(f"num_experts is {self.num_experts}; it must lie between 1 and {MAX_EXPERTS}")
        if self.expert_size < 1:
            raise ValueError(
                f"expert_intermediate_size is {self.expert_size}; an expert has at least 1 neuron"
            )
        if not 0 <= self.shared_size <= self.expert_size:
            raise ValueError(
                f"shared_neurons is {self.shared_size}; "
                f"an expert of {self.expert_size} neurons can share 0 to {self.expert_size}"
            )
        if not 0 <= self.expert_dropout < 1:
            raise ValueError(f"expert_dropout is {self.expert_dropout}; it must lie in [0, 1)")
        if self.balance_loss_weight < 0:
            raise ValueError(f"balance_loss_weight is {self.balance_loss_weight}; it cannot be negative")
        if self.is_decoder or self.add_cross_attention:
            raise ValueError("MoEBERT is an encoder; is_decoder and add_cross_attention must be False")
