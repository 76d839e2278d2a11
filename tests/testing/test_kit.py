"""The kit on what the core itself offers."""

from __future__ import annotations

import numpy as np

from hf_distill.testing import conformance


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def kl(log_p, log_q):
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def forward_kl(student, teacher):
    return kl(log_softmax(teacher), log_softmax(student))


test_forward_kl = conformance("forward_kl", reference=forward_kl)
test_reverse_kl = conformance("reverse_kl", reference=lambda student, teacher: forward_kl(teacher, student))
test_jsd = conformance("jsd")
test_skewed_kl = conformance("skewed_kl")
test_skewed_reverse_kl = conformance("skewed_reverse_kl")
test_total_variation = conformance("total_variation")
test_hellinger = conformance("hellinger")
test_logit_mse = conformance(
    "logit_mse", lacks={"sparse_as_dense": "compares logits, of which a cache keeps only the differences"}
)

SELECTS = {"no_host_sync": "which tokens count is looked up with a boolean mask"}
test_hidden_mse = conformance("hidden_mse", lacks=SELECTS)
test_hidden_cosine = conformance("hidden_cosine", lacks=SELECTS)
test_attention_transfer = conformance("attention_transfer", lacks=SELECTS)
test_attention_kl = conformance("attention_transfer", options={"kind": "probabilities_kl"}, lacks=SELECTS)
test_minilm_relations = conformance("minilm_relations", options={"num_relation_heads": 4}, lacks=SELECTS)
test_projected = conformance("hidden_mse", student={"family": "llama", "hidden_size": 16}, lacks=SELECTS)

CLASSIFIERS = {"student": {"family": "bert_classifier", "seed": 1}, "teacher": {"family": "bert_classifier", "seed": 2}}
SEQ2SEQ = {"student": {"family": "t5", "seed": 1}, "teacher": {"family": "t5", "seed": 2, "num_decoder_layers": 3}}
IMAGES = {"student": {"family": "vit", "seed": 1}, "teacher": {"family": "vit", "seed": 2}}
test_classifier = conformance("forward_kl", reference=forward_kl, **CLASSIFIERS)
test_encoder_decoder = conformance("hidden_mse", lacks=SELECTS, **SEQ2SEQ)
RESUMING = "Trainer of transformers 5.24 resumes a ViT without its blocks, whose names in the file are other ones"
test_images = conformance("hidden_mse", lacks={**SELECTS, "state_round_trip": RESUMING}, **IMAGES)
