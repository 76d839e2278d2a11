"""Every loss of the package goes through the conformance kit; those on vectors of examples against NumPy."""

import numpy as np

from hf_distill.testing import conformance

WIDE = {"family": "llama", "seed": 2, "hidden_size": 48, "num_hidden_layers": 3}
CLASSIFIER = {"family": "bert_classifier", "seed": 1}
CLASSIFYING_TEACHER = {"family": "bert_classifier", "seed": 2, "num_hidden_layers": 3}

BATCH_GLOBAL = {"cut_invariance": "examples are related to those of their own micro-batch only"}
SELECTS = {"no_host_sync": "which tokens count is looked up with a boolean mask, as in every FeatureLoss"}
PREDICTS = {"zero_at_equality": "the student's vector goes through a map that starts at random"}


def of_examples(relation):
    """A reference from a function of two arrays ``[n, H]``: means over the tokens, times the number of examples."""

    def reference(student, teacher, batch):
        means = []
        for signal in (student, teacher):
            (hidden,) = signal.features.values()
            tokens = zip(hidden.detach().numpy(), batch.token_mask.numpy(), strict=True)
            means.append(np.stack([states[mask].mean(0) for states, mask in tokens]))
        return len(means[0]) * relation(*means)

    return reference


def smooth_l1(first, second):
    gap = np.abs(first - second)
    return np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()


def lengths(vectors):
    return np.sqrt((vectors**2).sum(-1, keepdims=True))


def distances(vectors):
    found = lengths(vectors[:, None] - vectors[None])[..., 0]
    return found / found[found > 0].mean()


def cosines_of_angles(vectors):
    sides = vectors[:, None] - vectors[None]
    sides = sides / np.where(lengths(sides) > 0, lengths(sides), 1)
    return np.einsum("jid,jkd->jik", sides, sides)


def similarities(vectors):
    return vectors @ vectors.T / lengths(vectors @ vectors.T)


def neighbours(vectors):
    directions = vectors / lengths(vectors)
    kernel = (1 + directions @ directions.T) / 2
    return kernel / kernel.sum(1, keepdims=True)


def expanded_kernel(vectors):
    exponents = 0.8 * (vectors / lengths(vectors)) @ (vectors / lengths(vectors)).T
    return np.exp(-0.8) * (1 + exponents + exponents**2 / 2)


def mean_square(first, second):
    return ((first - second) ** 2).mean()


def divergence(student, teacher):
    p, q = neighbours(teacher), neighbours(student)
    return (p * np.log(p / q)).mean()


test_rkd_distance = conformance(
    "rkd_distance",
    plugins=["features"],
    reference=of_examples(lambda s, t: smooth_l1(distances(s), distances(t))),
    teacher=WIDE,
    lacks=BATCH_GLOBAL,
)
test_rkd_angle = conformance(
    "rkd_angle",
    plugins=["features"],
    reference=of_examples(lambda s, t: smooth_l1(cosines_of_angles(s), cosines_of_angles(t))),
    teacher=WIDE,
    lacks=BATCH_GLOBAL,
)
test_similarity_preserving = conformance(
    "similarity_preserving",
    plugins=["features"],
    reference=of_examples(lambda s, t: mean_square(similarities(s), similarities(t))),
    teacher=WIDE,
    lacks=BATCH_GLOBAL,
)
test_pkt = conformance("pkt", plugins=["features"], reference=of_examples(divergence), teacher=WIDE, lacks=BATCH_GLOBAL)
test_correlation_congruence = conformance(
    "correlation_congruence",
    plugins=["features"],
    reference=of_examples(lambda s, t: mean_square(expanded_kernel(s), expanded_kernel(t))),
    teacher=WIDE,
    lacks=BATCH_GLOBAL,
)
test_images = conformance(
    "rkd_distance",
    plugins=["features"],
    options={"pooling": "first"},
    student={"family": "vit", "seed": 1},
    teacher={"family": "vit", "seed": 2},
    lacks={
        **BATCH_GLOBAL,
        "state_round_trip": "the Trainer of transformers 5.24 resumes no ViT: it saves other names than it loads",
    },
)
test_mi_alpha = conformance(
    "mi_alpha",
    plugins=["features"],
    options={"critic_width": 8},
    teacher=WIDE,
    lacks={**BATCH_GLOBAL, "zero_at_equality": "minus a bound of the mutual information, which is largest there"},
)
test_crd = conformance(
    "crd",
    plugins=["features"],
    options={"num_examples": 6, "width": 8, "contrast_temperature": 0.5},
    columns={"example_id": [3, 0, 5, 2]},
    teacher=WIDE,
    lacks={
        "zero_at_equality": "minus the logarithm of a probability, through maps that start at random",
        "cut_invariance": "the normalisation constants of the first step are those of each micro-batch",
        "finite_difference_gradient": "these constants follow the batch in the first step, and have no gradient",
    },
)
test_vid = conformance("vid", plugins=["features"], teacher=WIDE, lacks={**SELECTS, **PREDICTS})
test_ernie_latent = conformance("ernie_latent", plugins=["features"], lacks=SELECTS)
test_ernie_latent_projected = conformance(
    "ernie_latent", plugins=["features"], teacher={**WIDE, "num_hidden_layers": 4}, lacks=SELECTS
)
test_ofa_kd = conformance(
    "ofa_kd",
    plugins=["features"],
    options={"exponent": 1.5},
    student=CLASSIFIER,
    teacher=CLASSIFYING_TEACHER,
    lacks={"zero_at_equality": "a cross-entropy, through branches that start at random"},
)
test_hybrid_relations = conformance(
    "hybrid_relations", plugins=["features"], options={"masking": 0.3}, teacher=WIDE, lacks=SELECTS
)
test_hybrid_features = conformance("hybrid_features", plugins=["features"], options={"masking": 0.3}, lacks=SELECTS)
