"""Students whose weights are linear maps of other weights: growing, coalescing, trimming, merging."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_distill import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable


@hookimpl
def register_students(register: Callable[[str, str], None]) -> None:
    """Builders; each reads the teacher's tensors one at a time."""
    register("grow", "hf_distill_weightmaps.growing:grow")
    register("coalesce", "hf_distill_weightmaps.coalescing:coalesce")
    register("decoalesce", "hf_distill_weightmaps.coalescing:decoalesce")
    register("interpolate", "hf_distill_weightmaps.coalescing:interpolate")
    register("layer_stride", "hf_distill_weightmaps.stride:layer_stride")
    register("trim_vocabulary", "hf_distill_weightmaps.vocabulary:trim_vocabulary")
    register("miniature", "hf_distill_weightmaps.miniatures:miniature")


@hookimpl
def register_losses(register: Callable[[str, str], None]) -> None:
    """The first of bert2BERT's two stages."""
    register("sub_models", "hf_distill_weightmaps.sub_models:SubModels")


@hookimpl
def register_commands(register: Callable[..., None]) -> None:
    """Merging of finished students."""
    register("merge", "hf_distill_weightmaps.merge_command:merge", help="Merge finished students of one base into one.")
