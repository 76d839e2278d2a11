"""The families of `families.py`: a tiny random model of each, four blocks deep, and rows for it to learn from.

model = FAMILIES["Qwen2-MoE"].make()
rows = FAMILIES["Qwen2-MoE"].rows()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from hf_distill import IGNORE_INDEX

WIDTH, INNER, DEPTH, HEADS, VOCABULARY, LENGTH, ROWS = 32, 64, 4, 4, 64, 12, 16
IMAGE, SAMPLES = 32, 400
NUM_LABELS = 4
Row = dict[str, Any]

# Under the names that most families share; others translate theirs.
_SIZES = {
    **{"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS},
    **{"intermediate_size": INNER, "max_position_embeddings": 64, "initializer_range": 0.2},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_DECODER = {**_SIZES, "num_key_value_heads": 2}
_ENCODER = {**_SIZES, **_NO_DROPOUT}
_ROBERTA = {**_ENCODER, "max_position_embeddings": 66}  # positions are counted from after the padding
_VISION = {
    **{"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "intermediate_size": INNER},
    **{"image_size": IMAGE, "patch_size": 8, "num_labels": NUM_LABELS, "initializer_range": 0.2, **_NO_DROPOUT},
}
_MOE = {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
_MAMBA = {
    **{"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "state_size": 8, "n_groups": 1},
    **{"num_heads": 8, "head_dim": 8, "expand": 2, "chunk_size": 8, "pad_token_id": 0, "eos_token_id": 2},
}
_BAMBA = {
    **{key: value for key, value in _DECODER.items() if key != "max_position_embeddings"},
    **{"attn_layer_indices": [1, 3], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1},
    **{"mamba_expand": 2, "mamba_chunk_size": 8},
}
_T5 = {
    **{"vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 8, "d_ff": INNER, "num_heads": HEADS, "dropout_rate": 0.0},
    **{"num_layers": DEPTH, "num_decoder_layers": DEPTH, "pad_token_id": 0, "eos_token_id": 2},
    **{"decoder_start_token_id": 0},
}
_HUBERT = {
    **{"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "intermediate_size": INNER},
    **{"conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_feat_extract_layers": 2},
    **{"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "num_labels": NUM_LABELS},
    **{"mask_time_prob": 0.0, "layerdrop": 0.0, "hidden_dropout": 0.0, "classifier_proj_size": 16},
    **{"vocab_size": VOCABULARY, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0},
    "initializer_range": 0.2,
}


@dataclass(frozen=True)
class Family:
    """One row of the matrix.

    Attributes:
        model: its class in transformers.
        config: the class of its configuration.
        options: of the configuration, or a function that makes it.
        kind: of its rows: "causal", "masked", "detection", "sequences", "images", "audio", "frames", "waveforms",
            "captions".
        layers: blocks that stay where half of them are kept and it matters which.
        note: what to know of the row.
    """

    model: str
    config: str
    options: Mapping[str, Any] | Callable[[], Any] = field(default_factory=dict)
    kind: str = "causal"
    layers: list[int] | None = None
    note: str = ""

    def make(self, seed: int = 0) -> PreTrainedModel:
        """A random model of the family."""
        options = self.options
        config_class: Any = getattr(transformers, self.config)
        if callable(options):
            config = options()
        else:
            names = getattr(config_class, "attribute_map", {})
            config = config_class(**{names.get(key, key): value for key, value in options.items()})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: PreTrainedModel = getattr(transformers, self.model)(config)
        return model.eval()

    def rows(self) -> list[Row]:
        """Examples, seeded."""
        generator = torch.Generator().manual_seed(0)
        return [_KINDS[self.kind](index, generator) for index in range(ROWS)]


def _tokens(generator: torch.Generator, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(5, VOCABULARY, (length,), generator=generator)


def _causal(index: int, generator: torch.Generator) -> Row:
    ids = _tokens(generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def _masked(index: int, generator: torch.Generator) -> Row:
    row = _causal(index, generator)
    hidden = torch.arange(LENGTH) % 3 == index % 3
    return {
        **{"input_ids": row["input_ids"].masked_fill(hidden, 4), "attention_mask": row["attention_mask"]},
        **{"labels": row["labels"].masked_fill(~hidden, IGNORE_INDEX)},
    }


def _detection(index: int, generator: torch.Generator) -> Row:
    row = _causal(index, generator)
    return {**row, "labels": (row["input_ids"] % 2).long()}


def _sequences(index: int, generator: torch.Generator) -> Row:
    row = _causal(index, generator)
    return {**row, "labels": row["input_ids"].flip(0)}


def _images(index: int, generator: torch.Generator) -> Row:
    pixels = torch.randn(3, IMAGE, IMAGE, generator=generator)
    return {"pixel_values": pixels, "labels": torch.tensor(index % NUM_LABELS)}


def _audio(index: int, generator: torch.Generator) -> Row:
    return {"input_values": torch.randn(SAMPLES, generator=generator), "labels": torch.tensor(index % NUM_LABELS)}


def _frames(index: int, generator: torch.Generator) -> Row:
    return {"input_values": torch.randn(SAMPLES, generator=generator), "labels": _tokens(generator, 5)}


def _waveforms(index: int, generator: torch.Generator) -> Row:
    return {"input_values": torch.randn(1, 1920, generator=generator)}


def _captions(index: int, generator: torch.Generator) -> Row:
    row = _causal(index, generator)
    places = (IMAGE // 8) ** 2
    ids = torch.cat([torch.full((places,), 3), row["input_ids"]])
    pixels = torch.randn(3, IMAGE, IMAGE, generator=generator)
    labels = ids.masked_fill(ids == 3, IGNORE_INDEX)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "labels": labels}


_KINDS: dict[str, Callable[[int, torch.Generator], Row]] = {
    **{"causal": _causal, "masked": _masked, "detection": _detection, "sequences": _sequences, "images": _images},
    **{"audio": _audio, "frames": _frames, "waveforms": _waveforms, "captions": _captions},
}


def _t5gemma() -> Any:
    sizes = {**_DECODER, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}
    module = transformers.T5GemmaModuleConfig
    return transformers.T5GemmaConfig(
        encoder=module(**sizes), decoder=module(**sizes), vocab_size=VOCABULARY, dropout_rate=0.0,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def _encoder_decoder() -> Any:
    decoder = transformers.BertConfig(**_ENCODER, is_decoder=True, add_cross_attention=True)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(**_ENCODER), decoder
    )
    config.decoder_start_token_id, config.pad_token_id, config.vocab_size = 1, 0, VOCABULARY
    return config


def _llava(text: Any) -> Any:
    vision = {key: value for key, value in _VISION.items() if key not in ("num_labels", *_NO_DROPOUT)}
    return transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision), text_config=text, image_token_id=3,
        vision_feature_layer=-1, vision_feature_select_strategy="default",
    )  # fmt: skip


def _encodec() -> Any:
    return transformers.EncodecConfig(
        hidden_size=16, num_filters=2, num_lstm_layers=1, codebook_size=16,
        target_bandwidths=[6.0], codebook_dim=16,
    )  # fmt: skip


def _mimi() -> Any:
    return transformers.MimiConfig(
        hidden_size=WIDTH, num_filters=4, upsampling_ratios=[4, 2], codebook_size=16, codebook_dim=16,
        vector_quantization_hidden_dimension=16, num_quantizers=2, num_semantic_quantizers=1,
        num_hidden_layers=DEPTH, num_attention_heads=HEADS, num_key_value_heads=HEADS, intermediate_size=INNER,
        upsample_groups=WIDTH, head_dim=8,
    )  # fmt: skip


def _dac() -> Any:
    return transformers.DacConfig(
        encoder_hidden_size=8, downsampling_ratios=[2, 2], decoder_hidden_size=32, n_codebooks=2, codebook_size=16,
        codebook_dim=4,
    )  # fmt: skip


FAMILIES: dict[str, Family] = {
    "BERT": Family("BertForMaskedLM", "BertConfig", _ENCODER, "masked"),
    "DistilBERT": Family(
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {**_SIZES, "hidden_dim": INNER, "dropout": 0.0, "attention_dropout": 0.0},
        "masked",
    ),
    "RoBERTa": Family("RobertaForMaskedLM", "RobertaConfig", _ROBERTA, "masked", note="GottBERT is of this family"),
    "CamemBERT": Family("CamembertForMaskedLM", "CamembertConfig", _ROBERTA, "masked"),
    "XLM-R": Family("XLMRobertaForMaskedLM", "XLMRobertaConfig", _ROBERTA, "masked"),
    "DeBERTa": Family(
        "DebertaForMaskedLM",
        "DebertaConfig",
        {**_ENCODER, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16},
        "masked",
    ),
    "DeBERTaV2": Family(
        "DebertaV2ForMaskedLM",
        "DebertaV2Config",
        {
            **{**_ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
            **{"share_att_key": True, "norm_rel_ebd": "layer_norm"},
        },
        "masked",
        note="DeBERTaV3 and CamemBERT 2.0 are of this family",
    ),
    "ELECTRA": Family("ElectraForMaskedLM", "ElectraConfig", {**_ENCODER, "embedding_size": 16}, "masked"),
    "ELECTRA (RTD)": Family("ElectraForPreTraining", "ElectraConfig", {**_ENCODER, "embedding_size": 16}, "detection"),
    "ModernBERT": Family(
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        {**_SIZES, "global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
        "masked",
        layers=[0, 3],
    ),
    "GPT-2": Family(
        "GPT2LMHeadModel", "GPT2Config", {**_SIZES, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ),
    "Llama": Family("LlamaForCausalLM", "LlamaConfig", _DECODER),
    "Qwen2": Family("Qwen2ForCausalLM", "Qwen2Config", _DECODER),
    "Qwen2-MoE": Family("Qwen2MoeForCausalLM", "Qwen2MoeConfig", {**_DECODER, **_MOE}),
    "Mixtral": Family("MixtralForCausalLM", "MixtralConfig", {**_DECODER, "num_local_experts": 4}),
    "Phi": Family("PhiForCausalLM", "PhiConfig", _DECODER),
    "Starcoder2": Family("Starcoder2ForCausalLM", "Starcoder2Config", _DECODER),
    "OPT": Family(
        "OPTForCausalLM", "OPTConfig", {**_SIZES, "ffn_dim": INNER, "word_embed_proj_dim": WIDTH, "dropout": 0.0}
    ),
    "BLOOM": Family("BloomForCausalLM", "BloomConfig", _SIZES),
    "Mamba2": Family("Mamba2ForCausalLM", "Mamba2Config", _MAMBA),
    "Bamba": Family("BambaForCausalLM", "BambaConfig", _BAMBA, layers=[0, 3], note="attention in blocks 1 and 3"),
    "T5": Family("T5ForConditionalGeneration", "T5Config", _T5, "sequences"),
    "T5Gemma": Family("T5GemmaForConditionalGeneration", "T5GemmaConfig", _t5gemma, "sequences"),
    "EncoderDecoder": Family("EncoderDecoderModel", "EncoderDecoderConfig", _encoder_decoder, "sequences"),
    "HuBERT": Family("HubertForSequenceClassification", "HubertConfig", _HUBERT, "audio"),
    "HuBERT (CTC)": Family("HubertForCTC", "HubertConfig", _HUBERT, "frames"),
    "Encodec": Family("EncodecModel", "EncodecConfig", _encodec, "waveforms"),
    "Mimi": Family("MimiModel", "MimiConfig", _mimi, "waveforms"),
    "DAC": Family("DacModel", "DacConfig", _dac, "waveforms"),
    "DeiT": Family("DeiTForImageClassification", "DeiTConfig", _VISION, "images"),
    "DeiT (two heads)": Family(
        "DeiTForImageClassificationWithTeacher", "DeiTConfig", _VISION, "images", note="two heads in, their mean out"
    ),
    "ResNet": Family(
        "ResNetForImageClassification",
        "ResNetConfig",
        {
            **{"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [2, 2, 2, 2], "layer_type": "basic"},
            **{"num_labels": NUM_LABELS},
        },
        "images",
    ),
    "LLaVA": Family(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        lambda: _llava(transformers.LlamaConfig(**_DECODER)),
        "captions",
        note="the text model is halved",
    ),
    "LLaVA (Bamba text)": Family(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        lambda: _llava(transformers.BambaConfig(**_BAMBA)),
        "captions",
        layers=[0, 3],
    ),
    "LLaVA (Qwen2-MoE text)": Family(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        lambda: _llava(transformers.Qwen2MoeConfig(**_DECODER, **_MOE)),
        "captions",
        note="without router logits, with which transformers 5.24 crashes",
    ),
}
