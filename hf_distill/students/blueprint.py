"""What a builder gives back: a student that is built, or a `Blueprint` of one, and where its tensors came from.

A builder that decides by shapes and configuration alone says so, and never sees a value of the teacher:

    @shape_only
    def averaged(teacher, *, layers: int) -> Blueprint:
        config = ...                                          # of the student
        student = skeleton(teacher, config)                   # its names and shapes, without memory
        mapping = {name: Source("mean", (first, second), function=lambda a, b: (a + b) / 2) for name in ...}
        return Blueprint(config, mapping, layer_map)

`build_student` reads the teacher's tensors one at a time, from a model or straight from the files of a checkpoint, so
that a teacher need not fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LayerMap = Sequence[int | None] | Mapping[str, Sequence[int | None]]
Builder = TypeVar("Builder", bound=Callable[..., Any])

_MARK = "hf_distill_shape_only"


@dataclass(frozen=True)
class Source:
    """Where one tensor of a student came from, or comes from.

    Attributes:
        operator: "copy", "random", "mean", or whatever a builder calls its way of combining.
        tensors: names of the teacher's tensors that went in, in order, as its `state_dict` has them; none where the
            operator needs none.
        part: which part of them, in the builder's own words ("rows 0:64"); empty where they went in whole.
        function: of a `Blueprint`, makes the student's tensor from the teacher's, which it gets in order, each
            floating-point one in float32 at least; the result has the shape of the student's and is cast to its dtype.
            Where there is none, one tensor is copied as it is, and of no tensor the student keeps its random one.
    """

    operator: str
    tensors: tuple[str, ...] = ()
    part: str = ""
    function: Callable[..., Tensor] | None = field(default=None, compare=False, repr=False)


@dataclass
class StudentBuild:
    """A student and how it came to be.

    Attributes:
        model: the student, in eval mode.
        mapping: the source of every tensor in the student's state dict.
        layer_map: for each block of the student the block of the teacher that it was made from, None where none was;
            of an encoder-decoder one such list for "encoder" and one for "decoder"; None where no block has any.
            Feature losses compare these blocks by default (`hf_distill.models.layers.match_layers`).
        record: what was done, as JSON-serialisable values; `build_student` fills it in, builders may add to it.
        tokenizer: the student's, where it is not the teacher's.
    """

    model: PreTrainedModel
    mapping: Mapping[str, Source]
    layer_map: LayerMap | None
    record: dict[str, Any] = field(default_factory=dict)
    tokenizer: PreTrainedTokenizerBase | None = None


@dataclass
class Blueprint:
    """A student that is yet to be built: each of its tensors a function of tensors of the teacher.

    Attributes:
        config: of the student.
        mapping: the source of every tensor in the student's state dict.
        layer_map: see `StudentBuild`.
        model_class: of the student; the teacher's by default.
        seed: decides tensors that are random, leaving the global generators alone; None draws from those.
        record: see `StudentBuild`.
        tokenizer: see `StudentBuild`.
        generation_config: of the student; the teacher's by default.
    """

    config: PretrainedConfig
    mapping: Mapping[str, Source]
    layer_map: LayerMap | None = None
    model_class: type[PreTrainedModel] | None = None
    seed: int | None = 0
    record: dict[str, Any] = field(default_factory=dict)
    tokenizer: PreTrainedTokenizerBase | None = None
    generation_config: GenerationConfig | None = None


def shape_only(builder: Builder) -> Builder:
    """Mark a builder that reads the teacher's configuration and shapes, no values, and returns a `Blueprint`.

    It may get a teacher without values (on the device "meta"), whose state dict has all names and shapes.
    """
    setattr(builder, _MARK, True)
    return builder


def is_shape_only(builder: Callable[..., Any]) -> bool:
    """Whether `builder` carries the mark of `shape_only`."""
    return bool(getattr(builder, _MARK, False))
