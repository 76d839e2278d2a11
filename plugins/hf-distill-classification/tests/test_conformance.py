"""Every loss of the package goes through the conformance kit, against NumPy; two of them on two processes, too."""

import numpy as np
from hf_distill_classification.views import TwoViews
from transformers import DataCollatorWithPadding

from hf_distill.testing import classification_dataset, conformance, conformance_on_two_processes, tiny_tokenizer

PLUGIN = ["classification"]
CLASSIFIER = {"family": "bert_classifier", "seed": 1}
TEACHER = {"family": "bert_classifier", "seed": 2, "num_hidden_layers": 3}
IMAGES = {"family": "vit", "seed": 2}
NO_RESUMING = "the Trainer of transformers 5.24 resumes no vision transformer: it saves other names than it loads"


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def kl(log_p, log_q):
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def z_scores(logits):
    return (logits - logits.mean(-1, keepdims=True)) / logits.std(-1, ddof=1, keepdims=True)


def decoupled(student, teacher, *, labels, temperature):
    total = []
    for own, other, label in zip(student, teacher, labels, strict=True):
        q, p = np.exp(log_softmax(own)), np.exp(log_softmax(other))
        two = [np.log([x[label], np.delete(x, label).sum()]) for x in (p, q)]
        rest = [log_softmax(np.delete(x, label)) for x in (other, own)]
        total.append(kl(*two) + 8 * kl(*rest))
    return total


def standardised(student, teacher, *, temperature):
    return kl(*(log_softmax(z_scores(x) / temperature) for x in (teacher, student)))


def binary(student, teacher):
    s = 1 / (1 + np.exp(teacher - student))
    return (0.5 * np.log(0.5 / s) + 0.5 * np.log(0.5 / (1 - s))).sum(-1)


def ferkd_in_numpy(student, teacher, *, labels):
    total = []
    for own, other, label in zip(student, teacher, labels, strict=True):
        target = np.exp(log_softmax(other))
        confidence = target.max()
        if confidence < 0.6:
            target = np.full(len(own), 0.1 / (len(own) - 1))
            target[label] = 0.9
        total.append(-(target * log_softmax(own)).sum() * (0.4 <= confidence <= 0.95))
    return total


NOT_A_DIVERGENCE = {"zero_at_equality": "a cross-entropy, which is the target's entropy there"}
OF_LOGITS = {"sparse_as_dense": "compares the logits themselves, and a cache keeps probabilities"}

test_dkd = conformance("dkd", plugins=PLUGIN, reference=decoupled)
test_standardized_kl = conformance("standardized_kl", plugins=PLUGIN, reference=standardised)
test_binary_kl = conformance("binary_kl", plugins=PLUGIN, reference=binary, lacks=OF_LOGITS)
test_ferkd = conformance(
    "ferkd",
    plugins=PLUGIN,
    options={"lower": 0.4, "middle": 0.6, "upper": 0.95},
    reference=ferkd_in_numpy,
    student=CLASSIFIER,
    teacher=TEACHER,
    lacks=NOT_A_DIVERGENCE,
)


def probabilities(signal):
    return np.exp(log_softmax(signal.rows.logits.detach().numpy() / 2))


def correlations(student, teacher, batch):
    q, p = probabilities(student), probabilities(teacher)
    inter = sum(1 - np.corrcoef(one, other)[0, 1] for one, other in zip(q, p, strict=True))
    intra = np.mean([1 - np.corrcoef(one, other)[0, 1] for one, other in zip(q.T, p.T, strict=True)])
    return 4 * (inter + 2 * len(q) * intra)


test_dist = conformance(
    "dist",
    plugins=PLUGIN,
    options={"gamma": 2.0, "temperature": 2.0},
    reference=correlations,
    student=CLASSIFIER,
    teacher=TEACHER,
    lacks={"cut_invariance": "the correlation of a class runs over the examples of a micro-batch"},
)
test_dist_of_tokens = conformance(
    "dist",
    plugins=PLUGIN,
    options={"gamma": 0.0},
    student={"family": "bert_tokens", "seed": 1},
    teacher={"family": "bert_tokens", "seed": 2},
)

NEW_HEAD = {"zero_at_equality": "the second head starts at random"}
test_dual_head = conformance("dual_head", plugins=PLUGIN, student=CLASSIFIER, teacher=TEACHER, lacks=NEW_HEAD)
test_dual_head_with_a_hidden_layer = conformance(
    "dual_head",
    plugins=PLUGIN,
    options={"hidden_width": 8, "dropout": 0.0},
    student={"family": "llama_classifier", "seed": 1},
    teacher={"family": "llama_classifier", "seed": 2},
    lacks=NEW_HEAD,
)


COUNTS = [9, 5, 1]


def by_class(student, teacher, batch):
    weights = np.array([(1 - 0.9999) / (1 - 0.9999**n) for n in COUNTS])
    weights = weights / ((weights * COUNTS).sum() / sum(COUNTS))
    heads = [log_softmax(features.detach().numpy()) for features in student.features.values()]
    decisions = teacher.rows.logits.detach().numpy().argmax(-1)
    return -0.5 * sum(
        heads[0][i, label] + weights[decision] * heads[1][i, decision]
        for i, (label, decision) in enumerate(zip(batch.labels.tolist(), decisions, strict=True))
    )


test_deit_lt = conformance(
    "deit_lt",
    plugins=PLUGIN,
    options={"class_counts": COUNTS, "reweight_from": 0},
    reference=by_class,
    student={"family": "deit", "seed": 1},
    teacher=IMAGES,
    lacks={
        "zero_at_equality": "a cross-entropy with labels and decisions",
        "state_round_trip": NO_RESUMING,
    },
)


def other_words(feature):
    """A strong view that is the same every time."""
    return {**feature, "input_ids": [5 + (3 * token) % 59 for token in feature["input_ids"]]}


def two_views():
    return classification_dataset(4), TwoViews(DataCollatorWithPadding(tiny_tokenizer()), strong=other_words)


STRENGTHS = [-0.5, 1.0]


def diverse_and_consistent(student, teacher, batch):
    total, prior = 0.0, np.log(COUNTS)
    for tap, strength in zip(student.parts["weak"].features, STRENGTHS, strict=True):
        weak, strong = (
            log_softmax(student.parts[part].features[tap].detach().numpy() + strength * prior)
            for part in ("weak", "strong")
        )
        for i, label in enumerate(batch.labels.tolist()):
            total -= (weak[i, label] + strong[i, label]) / 2
            if weak[i].argmax() == label:
                total += 0.6 * kl(weak[i], strong[i])
    return total


EXPERTS = {**CLASSIFIER, "transforms": [{"name": "experts", "num_experts": 2}]}
test_mdcs = conformance(
    "mdcs",
    plugins=PLUGIN,
    options={"class_counts": COUNTS, "strengths": STRENGTHS, "warmup": 0},
    reference=diverse_and_consistent,
    student=EXPERTS,
    data=two_views,
    lacks={
        "zero_at_equality": "there is no teacher; cross-entropies with labels",
        "finite_difference_gradient": "the weak view teaches the strong one and does not learn from it",
    },
)
test_dual_head_on_two_processes = conformance_on_two_processes(
    "dual_head", plugins=PLUGIN, student=CLASSIFIER, teacher=TEACHER
)
