"""Losses on features, and a command that recommends a configuration from finished runs. See README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_distill import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

LOSSES = {
    "rkd_distance": "rkd_distance:RKDDistance",
    "rkd_angle": "rkd_angle:RKDAngle",
    "similarity_preserving": "similarity_preserving:SimilarityPreserving",
    "pkt": "pkt:PKT",
    "correlation_congruence": "correlation_congruence:CorrelationCongruence",
    "vid": "vid:VID",
    "crd": "crd:CRD",
    "mi_alpha": "mi_alpha:MIAlpha",
    "ernie_latent": "ernie_latent:ErnieLatent",
    "ofa_kd": "ofa_kd:OFAKD",
    "hybrid_relations": "hybrid_relations:HybridRelations",
    "hybrid_features": "hybrid_features:HybridFeatures",
}


@hookimpl
def register_losses(register: Callable[[str, str], None]) -> None:
    """One file a loss."""
    for name, target in LOSSES.items():
        register(name, f"hf_distill_features.{target}")


@hookimpl
def register_commands(register: Callable[..., None]) -> None:
    """AutoDistiller."""
    register("recommend", "hf_distill_features.recommend:recommend", help="Rank configurations by what past runs gave.")
