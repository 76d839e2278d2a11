"""TIES against the plain average of task vectors."""

from __future__ import annotations

import dataclasses

from . import merge

EXPERIMENT = dataclasses.replace(
    merge.EXPERIMENT,
    method="TIES",
    paper="Yadav et al. 2023, arXiv:2306.01708",
    what="Of each task vector the largest fifth stays; entries whose signs disagree are not averaged.",
    expects="more accuracy over both domains than the average of the models",
    baseline="average",
    arm="TIES",
    arms={name: merge.ARMS[name] for name in ("average", "TIES")},
)
