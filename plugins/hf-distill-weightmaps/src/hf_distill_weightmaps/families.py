"""Which axis of which tensor is what, family by family.

    FAMILIES["my_model_type"] = Family(blocks="layers", rules={"q_proj.weight": "heads, in hidden", ...})

A rule names the axes of a tensor, in order. What the tensor reads is marked ``in``; whatever else it writes:

    "heads, in hidden"       a linear layer from the hidden state to the query heads (a head's width is implied)
    "in hidden, 3 heads"     the same transposed, with query, key and value side by side (GPT-2)
    "hidden"                 a bias, or a norm of the hidden state
    "head hidden"            a norm whose output only the vocabulary's head reads
    "vocabulary, hidden"     the embedding
    "-"                      an axis that stays as it is (positions, classes, the width of a head)

Where the head is tied to the embedding there is no matrix of its own whose columns could be split; the norm before it,
"head hidden", is divided instead. A rule is for the tensors whose name is its key, or ends with a dot and its key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import nn
from transformers import PretrainedConfig

Kind = Literal["hidden", "heads", "key_value_heads", "intermediate", "vocabulary", "-"]


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor.

    Attributes:
        kind: whose units lie along it.
        role: whether the tensor reads ("in") or writes ("out") them; "head": "in" where the head is tied, else "out".
        parts: how many times the units follow one another.
    """

    kind: Kind
    role: Literal["in", "out", "head"] = "out"
    parts: int = 1

    @classmethod
    def parse(cls, text: str) -> Axis:
        """An axis from its part of a rule.

        Raises:
            ValueError: it names no axis.
        """
        match = re.fullmatch(r"(?:(in|head) )?(?:(\d+) )?([\w-]+)", text.strip())
        if match is None or match[3] not in get_args(Kind):
            raise ValueError(
                f"A rule names the axis {text!r}; expected '[in|head] [number of parts] name' with a name among "
                f"{', '.join(get_args(Kind))}."
            )
        return cls(match[3], match[1] or "out", int(match[2] or 1))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Family:
    """How the tensors of one kind of model are laid out.

    Attributes:
        blocks: name of the list of blocks, such as "layers" in ``model.layers.0.mlp.up_proj.weight``.
        rules: axes by the end of a tensor's name, see above.
        free_head_width: whether heads may be of another width than hidden size over heads.
        intermediate: the field of the configuration that holds the inner width of the feed-forward networks.
        counts_from_padding: whether positions are counted from the id of the padding token, which then must not change.
    """

    blocks: str
    rules: Mapping[str, str]
    free_head_width: bool = False
    intermediate: str = "intermediate_size"
    counts_from_padding: bool = False

    def axes(self, name: str) -> tuple[Axis, ...]:
        """The axes of the tensor called `name`.

        Raises:
            ValueError: no rule is for it.
        """
        ends = [end for end in self.rules if name == end or name.endswith(f".{end}")]
        if not ends:
            raise ValueError(
                f"No rule says what the axes of the tensor {name!r} are. Add one to the rules of its family, see "
                "hf_distill_weightmaps.families."
            )
        return tuple(map(Axis.parse, self.rules[max(ends, key=len)].split(",")))

    def place(self, name: str) -> tuple[str, int, str] | None:
        """Where a tensor is: what comes before the number of its block, the number, the rest; None outside blocks."""
        match = re.match(rf"((?:.*?\.)?{self.blocks}\.)(\d+)\.(.+)", name)
        return None if match is None else (match[1], int(match[2]), match[3])


@dataclass(frozen=True)
class TensorAxes:
    """The axes of all tensors of one model, ties considered.

    Attributes:
        family: its family.
        axes: by the tensor's name; no "head" is left.
        is_tied: whether the head is the embedding.
    """

    family: Family
    axes: Mapping[str, tuple[Axis, ...]]
    is_tied: bool

    @classmethod
    def of(cls, model: nn.Module, family: Family) -> TensorAxes:
        """Those of a model, or of one without values.

        Raises:
            ValueError: a tensor that no rule is for, or one with another number of axes than its rule.
        """
        tensors: Mapping[str, Any] = model.state_dict(keep_vars=True)
        axes = {name: family.axes(name) for name in tensors}
        for name, tensor in tensors.items():
            if len(axes[name]) != tensor.dim():
                raise ValueError(f"The rule for {name!r} names {len(axes[name])} axes; it has {tensor.dim()}.")
        embeddings = {id(tensors[name]): own for name, own in axes.items() if own == _EMBEDDING}
        tied = [name for name, own in axes.items() if own == _HEAD and id(tensors[name]) in embeddings]
        axes |= dict.fromkeys(tied, _EMBEDDING)
        resolved = {name: tuple(_resolve(axis, bool(tied)) for axis in own) for name, own in axes.items()}
        return cls(family, resolved, bool(tied))


@dataclass(frozen=True)
class Sizes:
    """The shape of a model.

    Attributes:
        hidden: width of the hidden states.
        layers: blocks.
        heads: query heads of a block.
        key_value_heads: key-value heads of a block; as many as `heads` where they are not shared.
        head_width: of one head.
        intermediate: inner width of the feed-forward networks.
    """

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    intermediate: int

    @classmethod
    def of(cls, config: PretrainedConfig, family: Family) -> Sizes:
        """The shape that a configuration asks for."""
        part: Any = config
        return cls(
            hidden=part.hidden_size,
            layers=part.num_hidden_layers,
            heads=part.num_attention_heads,
            key_value_heads=getattr(part, "num_key_value_heads", None) or part.num_attention_heads,
            head_width=getattr(part, "head_dim", None) or part.hidden_size // part.num_attention_heads,
            intermediate=getattr(part, family.intermediate) or 4 * part.hidden_size,  # None is GPT-2's way to say so
        )

    def write(self, config: PretrainedConfig, family: Family) -> None:
        """Make a configuration ask for this shape, but for the number of blocks and their lists."""
        part: Any = config
        part.hidden_size, part.num_attention_heads = self.hidden, self.heads
        setattr(part, family.intermediate, self.intermediate)
        if hasattr(part, "num_key_value_heads"):
            part.num_key_value_heads = self.key_value_heads
        if family.free_head_width:
            part.head_dim = self.head_width

    def changed(
        self,
        family: Family,
        *,
        hidden_size: int | None,
        layers: int | None,
        heads: int | None,
        key_value_heads: int | None,
        intermediate_size: int | None,
    ) -> Sizes:
        """Another shape with heads of the same width; what is not given keeps its proportion to the hidden size.

        Raises:
            ValueError: heads that do not make up the hidden size, or are not shared equally by key-value heads.
        """
        hidden = hidden_size or self.hidden
        shared = self.heads // self.key_value_heads
        if heads is None and family.free_head_width:
            heads = shared * max(round(self.key_value_heads * hidden / self.hidden), 1)
        elif heads is None:
            heads = max(hidden // self.head_width, 1)
        if not family.free_head_width and heads * self.head_width != hidden:
            raise ValueError(
                f"{heads} heads of width {self.head_width} do not make a hidden size of {hidden}. Heads keep their "
                f"width, so the hidden size is {self.head_width} times the number of heads."
            )
        if key_value_heads is None:
            key_value_heads = heads // shared if heads % shared == 0 else heads
        if heads % key_value_heads:
            possible = [count for count in range(1, heads + 1) if heads % count == 0]
            raise ValueError(
                f"{heads} heads cannot share {key_value_heads} key-value heads equally; possible: {possible}."
            )
        return replace(
            self,
            hidden=hidden,
            layers=layers or self.layers,
            heads=heads,
            key_value_heads=key_value_heads,
            intermediate=intermediate_size or round(self.intermediate * hidden / self.hidden),
        )


def family_of(config: PretrainedConfig) -> Family:
    """The family of a configuration.

    Raises:
        ValueError: an unknown one; lists those that are known and says how to describe another.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"The family {config.model_type!r} is not described; there are {', '.join(sorted(FAMILIES))}. To describe "
            f"it: hf_distill_weightmaps.families.FAMILIES[{config.model_type!r}] = Family(blocks=..., rules=...), with "
            "a rule for each of its tensors."
        )
    return FAMILIES[config.model_type]


def _resolve(axis: Axis, tied: bool) -> Axis:
    return replace(axis, role="in" if tied else "out") if axis.role == "head" else axis


_EMBEDDING = (Axis("vocabulary"), Axis("hidden"))
_HEAD = (Axis("vocabulary"), Axis("hidden", "in"))

_LLAMA = {
    "embed_tokens.weight": "vocabulary, hidden",
    "self_attn.q_proj.weight": "heads, in hidden",
    "self_attn.q_proj.bias": "heads",
    "self_attn.k_proj.weight": "key_value_heads, in hidden",
    "self_attn.k_proj.bias": "key_value_heads",
    "self_attn.v_proj.weight": "key_value_heads, in hidden",
    "self_attn.v_proj.bias": "key_value_heads",
    "self_attn.o_proj.weight": "hidden, in heads",
    "self_attn.o_proj.bias": "hidden",
    "self_attn.q_norm.weight": "-",
    "self_attn.k_norm.weight": "-",
    "mlp.gate_proj.weight": "intermediate, in hidden",
    "mlp.gate_proj.bias": "intermediate",
    "mlp.up_proj.weight": "intermediate, in hidden",
    "mlp.up_proj.bias": "intermediate",
    "mlp.down_proj.weight": "hidden, in intermediate",
    "mlp.down_proj.bias": "hidden",
    "input_layernorm.weight": "hidden",
    "post_attention_layernorm.weight": "hidden",
    "norm.weight": "head hidden",
    "lm_head.weight": "vocabulary, in hidden",
    "score.weight": "-, in hidden",
    "score.bias": "-",
}
_GPT2 = {
    "wte.weight": "vocabulary, hidden",
    "wpe.weight": "-, hidden",
    "ln_1.weight": "hidden",
    "ln_1.bias": "hidden",
    "attn.c_attn.weight": "in hidden, 3 heads",
    "attn.c_attn.bias": "3 heads",
    "attn.c_proj.weight": "in heads, hidden",
    "attn.c_proj.bias": "hidden",
    "ln_2.weight": "hidden",
    "ln_2.bias": "hidden",
    "mlp.c_fc.weight": "in hidden, intermediate",
    "mlp.c_fc.bias": "intermediate",
    "mlp.c_proj.weight": "in intermediate, hidden",
    "mlp.c_proj.bias": "hidden",
    "ln_f.weight": "head hidden",
    "ln_f.bias": "head hidden",
    "lm_head.weight": "vocabulary, in hidden",
    "score.weight": "-, in hidden",
}
_BERT_BODY = {
    "embeddings.word_embeddings.weight": "vocabulary, hidden",
    "embeddings.position_embeddings.weight": "-, hidden",
    "embeddings.token_type_embeddings.weight": "-, hidden",
    "LayerNorm.weight": "hidden",
    "LayerNorm.bias": "hidden",
    "attention.self.query.weight": "heads, in hidden",
    "attention.self.query.bias": "heads",
    "attention.self.key.weight": "heads, in hidden",
    "attention.self.key.bias": "heads",
    "attention.self.value.weight": "heads, in hidden",
    "attention.self.value.bias": "heads",
    "attention.output.dense.weight": "hidden, in heads",
    "attention.output.dense.bias": "hidden",
    "intermediate.dense.weight": "intermediate, in hidden",
    "intermediate.dense.bias": "intermediate",
    "output.dense.weight": "hidden, in intermediate",
    "output.dense.bias": "hidden",
    "pooler.dense.weight": "hidden, in hidden",
    "pooler.dense.bias": "hidden",
    # Of sequences, tokens, choices and spans.
    "classifier.weight": "-, in hidden",
    "classifier.bias": "-",
    "qa_outputs.weight": "-, in hidden",
    "qa_outputs.bias": "-",
}
_BERT = {
    **_BERT_BODY,
    "cls.predictions.transform.dense.weight": "hidden, in hidden",
    "cls.predictions.transform.dense.bias": "hidden",
    "cls.predictions.transform.LayerNorm.weight": "head hidden",
    "cls.predictions.transform.LayerNorm.bias": "head hidden",
    "cls.predictions.decoder.weight": "vocabulary, in hidden",
    "cls.predictions.decoder.bias": "vocabulary",
    "cls.predictions.bias": "vocabulary",
    "cls.seq_relationship.weight": "-, in hidden",
    "cls.seq_relationship.bias": "-",
}
_ROBERTA = {
    **_BERT_BODY,
    "lm_head.dense.weight": "hidden, in hidden",
    "lm_head.dense.bias": "hidden",
    "lm_head.layer_norm.weight": "head hidden",
    "lm_head.layer_norm.bias": "head hidden",
    "lm_head.decoder.weight": "vocabulary, in hidden",
    "lm_head.decoder.bias": "vocabulary",
    "lm_head.bias": "vocabulary",
    "classifier.dense.weight": "hidden, in hidden",
    "classifier.dense.bias": "hidden",
    "classifier.out_proj.weight": "-, in hidden",
    "classifier.out_proj.bias": "-",
}
_VIT = {
    "embeddings.cls_token": "-, -, hidden",
    "embeddings.position_embeddings": "-, -, hidden",
    "embeddings.patch_embeddings.projection.weight": "hidden, -, -, -",
    "embeddings.patch_embeddings.projection.bias": "hidden",
    **{f"attention.{one}_proj.weight": "heads, in hidden" for one in "qkv"},
    **{f"attention.{one}_proj.bias": "heads" for one in "qkv"},
    "attention.o_proj.weight": "hidden, in heads",
    "attention.o_proj.bias": "hidden",
    **{f"layernorm{place}.weight": "hidden" for place in ("_before", "_after", "")},
    **{f"layernorm{place}.bias": "hidden" for place in ("_before", "_after", "")},
    "mlp.fc1.weight": "intermediate, in hidden",
    "mlp.fc1.bias": "intermediate",
    "mlp.fc2.weight": "hidden, in intermediate",
    "mlp.fc2.bias": "hidden",
    "classifier.weight": "-, in hidden",
    "classifier.bias": "-",
}

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), Family("layers", _LLAMA, free_head_width=True)),
    "gpt2": Family("h", _GPT2, intermediate="n_inner"),
    "bert": Family("layer", _BERT),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), Family("layer", _ROBERTA, counts_from_padding=True)),
    "vit": Family("layers", _VIT),
}
