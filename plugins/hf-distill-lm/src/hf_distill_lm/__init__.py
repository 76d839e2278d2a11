"""Losses for distilling language models; each in a file of its own, with its paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_distill import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable


@hookimpl
def register_losses(register: Callable[[str, str], None]) -> None:
    """Divergences between predictions, and relations between the predictions of a batch or a span."""
    register("taid", "hf_distill_lm.taid:TAID")
    register("adaptive_kl", "hf_distill_lm.adaptive_kl:adaptive_kl")
    register("first", "hf_distill_lm.first:first")
    register("sinkd", "hf_distill_lm.sinkd:SinKD")
    register("aligndistil", "hf_distill_lm.aligndistil:aligndistil")
    register("distillm2", "hf_distill_lm.distillm2:DistiLLM2")
    register("dac_kl", "hf_distill_lm.dac_kl:DACKL")
    register("span_relation", "hf_distill_lm.span_relation:SpanRelation")


@hookimpl
def register_generators(register: Callable[[str, str], None]) -> None:
    """The student's own text, corrected."""
    register("scrg", "hf_distill_lm.scrg:SCRG")
