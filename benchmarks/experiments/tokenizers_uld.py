"""ULD against the text alone, for a student whose tokenizer is not the teacher's."""

from __future__ import annotations

from .frame import Experiment
from .tokenizers_alm import ULD, arm

EXPERIMENT = Experiment(
    method="ULD",
    package="hf-distill-tokenizers",
    components=("loss uld",),
    paper="Boizard et al. 2024, arXiv:2402.12030",
    evidence="faithful",
    what="The next-token distributions of both models are sorted, and the L1 distance of what is left is the loss. "
    "Positions are paired by their number in the answer.",
    needs="A teacher with any tokenizer whose tokens tell their bytes.",
    expects="fewer bits per byte of held-out text than from the text alone, in as many steps",
    metric="bits_per_byte",
    unit="bits a byte",
    better="lower",
    baseline="text",
    arm="text + ULD",
    arms={
        "text": arm("task"),
        "text + ULD": arm("task", ULD),
        "eleven domains, text": arm("task", domain="eleven"),
        "eleven domains, text + ULD": arm("task", ULD, domain="eleven"),
    },
    data=("stories260k", "tinystories_sample", "teacher_lm", "lm_domains"),
    reference="tables 1 to 3",
)
