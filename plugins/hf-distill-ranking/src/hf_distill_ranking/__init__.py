"""Ranking: a bi-encoder learns from a cross-encoder's scores; each loss in a file of its own, with its paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_distill import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable


@hookimpl
def register_losses(register: Callable[[str, str], None]) -> None:
    """What compares the scores of a query's documents."""
    register("margin_mse", "hf_distill_ranking.margin_mse:MarginMSE")
    register("listwise_kl", "hf_distill_ranking.listwise_kl:ListwiseKL")
    register("contrastive", "hf_distill_ranking.contrastive:Contrastive")
