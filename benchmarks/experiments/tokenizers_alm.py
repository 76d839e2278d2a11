"""ALM against the text alone and against ULD, for students whose tokenizer is not the teacher's."""

from __future__ import annotations

from .frame import Arm, Experiment
from .tokenizers_text import distil

# The gradient of ALM is as many times smaller than that of the text as its temperature says.
ALM = {"name": "alm", "weight": 100.0}
ULD = {"name": "uld", "weight": 1.5}  # the authors' factor


def arm(*losses: object, domain: str = "stories") -> Arm:
    """An arm with these losses."""
    return lambda seed: distil(list(losses), seed=seed, domain=domain)


EXPERIMENT = Experiment(
    method="ALM",
    package="hf-distill-tokenizers",
    components=("loss alm",),
    paper="Minixhofer et al. 2025, arXiv:2503.20083",
    evidence="faithful",
    what="The teacher reads the same text in tokens of its own, and the likelihoods of the shortest pieces that both "
    "spell are compared. Of the teacher it takes one number a token.",
    needs="A teacher with any tokenizer whose tokens tell their bytes.",
    expects="fewer bits per byte of held-out text than from the text alone, in as many steps",
    metric="bits_per_byte",
    unit="bits a byte",
    better="lower",
    baseline="text",
    arm="text + ALM",
    arms={
        "text": arm("task"),
        "text + ALM": arm("task", ALM),
        "text + ULD": arm("task", ULD),
        "ALM alone": arm(ALM),
        "eleven domains, text": arm("task", domain="eleven"),
        "eleven domains, text + ALM": arm("task", ALM, domain="eleven"),
        "eleven domains, text + ULD": arm("task", ULD, domain="eleven"),
    },
    data=("stories260k", "tinystories_sample", "teacher_lm", "lm_domains"),
    reference="section 4.1, subword to byte",
)
