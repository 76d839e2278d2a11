"""`from_pretrained` of transformers also loads students that transforms changed, once hf_distill is imported.

A student carries its transforms in its configuration (see `hf_distill.students.transforms`). Plain transformers refuses
to load one, since it would leave out the changes; with this in place it applies them first. Nothing heavy is imported:
where transformers is not there yet, this waits for it.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_TARGET = "transformers.modeling_utils"


def install() -> None:
    """Teach `PreTrainedModel.from_pretrained`, now or as soon as there is one; once is enough."""
    if (module := sys.modules.get(_TARGET)) is not None and hasattr(module, "PreTrainedModel"):
        _teach(module)
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


class _Waiting(importlib.abc.MetaPathFinder):
    """Lets the ordinary finders find the module, and has it taught when it has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _teach(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _teach(module: ModuleType) -> None:
    model_class: Any = module.PreTrainedModel
    stock = model_class.from_pretrained.__func__
    if hasattr(stock, "__wrapped__") and stock.__module__ == __name__:
        return

    @functools.wraps(stock, assigned=("__name__", "__qualname__", "__doc__"))
    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        from .transforms import load_transformed, needs_transforms

        if needs_transforms(cls, pretrained_model_name_or_path, kwargs):
            return load_transformed(cls, pretrained_model_name_or_path, *args, **kwargs)
        return stock(cls, pretrained_model_name_or_path, *args, **kwargs)

    model_class.from_pretrained = classmethod(from_pretrained)
