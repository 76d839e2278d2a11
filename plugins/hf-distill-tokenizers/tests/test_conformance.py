"""Both losses against NumPy and the conformance kit."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, softmax

from hf_distill.testing import conformance, conformance_on_two_processes

TEMPERATURE = 100.0


def predictions(signal, batch):
    """Logits of each example that count, one array ``[n, V]`` an example, and the tokens that came, ``[n]``."""
    logits = (signal.rows.states @ signal.rows.head.weight.double().T).detach().numpy()
    ids, mask = batch.inputs["input_ids"].numpy(), batch.row_mask.numpy()
    return [(logits[row, mask[row]], ids[row, 1:][mask[row, :-1]]) for row in range(len(ids))]


def alm_in_numpy(student, teacher, batch):
    """Of one tokenizer, chunks are single tokens."""
    total = 0.0
    for (ours, came), (theirs, _) in zip(predictions(student, batch), predictions(teacher, batch), strict=True):
        places = np.arange(len(came))
        log_q, log_p = (log_softmax(logits, -1)[places, came] / TEMPERATURE - 1e-6 for logits in (ours, theirs))
        total -= (np.exp(log_p) * log_q + (1 - np.exp(log_p)) * np.log(1 - np.exp(log_q))).sum()
    return total


def uld_in_numpy(student, teacher, batch):
    """Sorted distributions, prediction by prediction."""
    total = 0.0
    for (ours, _), (theirs, _) in zip(predictions(student, batch), predictions(teacher, batch), strict=True):
        q, p = (np.sort(softmax(logits, -1))[:, ::-1] for logits in (ours, theirs))
        total += np.abs(np.pad(q, ((0, 0), (0, p.shape[1] - q.shape[1]))) - p).sum()
    return total


ENTROPY = {"zero_at_equality": "a cross-entropy, which keeps the teacher's own entropy"}
test_alm = conformance("alm", plugins=["tokenizers"], reference=alm_in_numpy, lacks=ENTROPY)
test_uld = conformance("uld", plugins=["tokenizers"], reference=uld_in_numpy)
test_alm_on_two_processes = conformance_on_two_processes("alm", plugins=["tokenizers"])
