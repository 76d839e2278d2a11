"""Every loss through the conformance kit, on lists of different lengths, against NumPy."""

import numpy as np
from datasets import Dataset
from hf_distill_ranking.collator import RankingCollator

from hf_distill.testing import conformance, tiny_tokenizer

from .rankings import make_rows, other_tokenizer

NESTED = {
    "plugins": ["ranking"],
    "student": {"family": "bert", "seed": 1},
    "teacher": {"family": "bert_classifier", "seed": 2, "num_labels": 1, "num_hidden_layers": 3},
    "data": lambda: (
        Dataset.from_list(make_rows(4)),
        RankingCollator(tiny_tokenizer(), teacher_tokenizer=other_tokenizer()),
    ),
}
OTHER_KIND = {"zero_at_equality": "a cross-encoder is never a copy of a bi-encoder"}


def means(signal, part):
    states = signal.outputs["last_hidden_state"].detach().numpy()
    return [one[mask].mean(0) for one, mask in zip(states, part.token_mask.numpy(), strict=True)]


def scores_in_numpy(student, batch):
    """Lists of scores, one a query, by loops."""
    queries, documents = (means(student.parts[name], batch.parts[name]) for name in ("query", "documents"))
    sizes = batch.inputs["document_mask"].sum(1).tolist()
    return [
        np.array([query @ documents.pop(0) for _ in range(size)]) for query, size in zip(queries, sizes, strict=True)
    ]


def teacher_in_numpy(teacher, batch):
    logits = teacher.parts["pairs"].rows.logits[:, 0].tolist()
    return [np.array([logits.pop(0) for _ in range(size)]) for size in batch.inputs["document_mask"].sum(1).tolist()]


def relevance_in_numpy(batch):
    return [row[row >= 0] for row in batch.labels.numpy()]


def margin_mse(student, teacher, batch):
    total = 0.0
    for ours, theirs, relevance in zip(
        scores_in_numpy(student, batch), teacher_in_numpy(teacher, batch), relevance_in_numpy(batch), strict=True
    ):
        for i in np.flatnonzero(relevance == 1):
            for j in np.flatnonzero(relevance == 0):
                total += ((ours[i] - ours[j]) - (theirs[i] - theirs[j])) ** 2
    return total


def softmax(scores):
    exponentials = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()


def listwise_kl(student, teacher, batch):
    total = 0.0
    for ours, theirs in zip(scores_in_numpy(student, batch), teacher_in_numpy(teacher, batch), strict=True):
        q, p = softmax(ours / 3), softmax(theirs / 3)
        total += 9 * (p * np.log(p / q)).sum()
    return total


def contrastive(student, teacher, batch):
    lists = zip(scores_in_numpy(student, batch), relevance_in_numpy(batch), strict=True)
    return sum(-np.log(softmax(ours / 4)[relevance == 1].sum()) for ours, relevance in lists)


def contrastive_in_batch(student, teacher, batch):
    queries, documents = (np.stack(means(student.parts[name], batch.parts[name])) for name in ("query", "documents"))
    sizes = batch.inputs["document_mask"].sum(1).tolist()
    starts = np.cumsum([0, *sizes])
    total = 0.0
    for query, start, relevance in zip(queries, starts, relevance_in_numpy(batch), strict=False):
        total -= np.log(softmax(documents @ query / 4)[start + relevance.argmax()])
    return total


test_margin_mse = conformance("margin_mse", reference=margin_mse, lacks=OTHER_KIND, **NESTED)
test_listwise_kl = conformance(
    "listwise_kl", options={"temperature": 3.0}, reference=listwise_kl, lacks=OTHER_KIND, **NESTED
)
LABELS = {"zero_at_equality": "a cross-entropy with labels"}
test_contrastive = conformance("contrastive", options={"scale": 0.25}, reference=contrastive, lacks=LABELS, **NESTED)
test_in_batch_negatives = conformance(
    "contrastive",
    options={"scale": 0.25, "in_batch_negatives": True},
    reference=contrastive_in_batch,
    lacks={**LABELS, "cut_invariance": "the negatives are those of the micro-batch"},
    **NESTED,
)
