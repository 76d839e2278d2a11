"""Every loss of the package goes through the conformance kit, against NumPy."""

import numpy as np

from hf_distill.testing import conformance

CLASSIFIER = {"family": "bert_classifier", "seed": 1, "num_hidden_layers": 4}
TEACHER = {"family": "bert_classifier", "seed": 2, "num_hidden_layers": 3}
LABELS = {"zero_at_equality": "the truth is the labels, not the teacher"}


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def squares(student_logits, teacher_logits):
    return ((softmax(student_logits) - softmax(teacher_logits)) ** 2).mean(-1)


def label_squares(student, teacher, batch):
    logits, labels = student.rows.logits.detach().numpy(), batch.row_labels.numpy()
    return ((softmax(logits) - np.eye(logits.shape[-1])[labels]) ** 2).mean(-1).sum()


test_probability_mse = conformance("probability_mse", plugins=["progressive"], reference=squares)
test_label_mse = conformance(
    "label_mse", plugins=["progressive"], reference=label_squares, student=CLASSIFIER, teacher=TEACHER, lacks=LABELS
)
test_multi_exit = conformance(
    "multi_exit", plugins=["progressive"], options={"exits": [1, 3]}, student=CLASSIFIER, teacher=TEACHER, lacks=LABELS
)
