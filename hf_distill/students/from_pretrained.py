"""Letting `from_pretrained` of transformers load students that transforms changed; done only when asked for.

    hf_distill.enable_from_pretrained(plugins=["prune"])
    model = AutoModelForCausalLM.from_pretrained("student")

A student carries its transforms in its configuration (see `hf_distill.students.transforms`). Plain transformers refuses
to load one, since it would leave out the changes; after this call it applies them first.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel

from ..plugins.manager import Plugins
from .transforms import load_transformed, needs_transforms


def enable_from_pretrained(plugins: Plugins | Iterable[str | object] | None = None) -> None:
    """Let `from_pretrained` of every class of transformers load transformed students, in this process from now on.

    Changes `PreTrainedModel.from_pretrained`. A second call replaces the plugins of the first;
    `disable_from_pretrained` undoes it.

    Args:
        plugins: who may apply transforms, names or a `Plugins`; of a folder that names others none is imported.
    """
    disable_from_pretrained()
    active = Plugins.of(plugins)
    model_class: Any = PreTrainedModel
    stock = model_class.from_pretrained.__func__

    @functools.wraps(stock, assigned=("__name__", "__qualname__", "__doc__"))
    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        if needs_transforms(cls, pretrained_model_name_or_path, kwargs):
            return load_transformed(cls, pretrained_model_name_or_path, *args, plugins=active, **kwargs)
        return stock(cls, pretrained_model_name_or_path, *args, **kwargs)

    model_class.from_pretrained = classmethod(from_pretrained)


def disable_from_pretrained() -> None:
    """Give `from_pretrained` back as transformers has it."""
    model_class: Any = PreTrainedModel
    function = model_class.from_pretrained.__func__
    if function.__module__ == __name__:
        model_class.from_pretrained = classmethod(function.__wrapped__)
