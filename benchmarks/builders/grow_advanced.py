"""bert2BERT's advanced initialisation and its two stages, against function-preserving growth."""

from __future__ import annotations

import dataclasses

from . import grow

EXPERIMENT = dataclasses.replace(
    grow.EXPERIMENT,
    method="bert2BERT, advanced initialisation",
    what="As growth, with the copies of heads and neurons from the next block; and with one step in eight spent on "
    "sub-models of 1 to 4 blocks, of which the top one is trained.",
    expects="lower cross-entropy of held-out text than with function-preserving growth, in as many steps",
    baseline="grow",
    arm="grow, advanced",
)
