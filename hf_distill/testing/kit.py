"""The conformance kit: what a loss promises, checked with one line of pytest.

    from hf_distill.testing import conformance

    test_tvd = conformance("tvd", plugins=["tvd"], reference=tvd_in_numpy, lacks={"one_row": "why"})

Each property is a function in `row_properties`, `batch_properties` or `training_properties`, and its docstring says
which failure it prevents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..plugins.registry import did_you_mean
from .batch_properties import BATCH_PROPERTIES
from .row_properties import ROW_PROPERTIES
from .subject import Subject
from .training_properties import TRAINING_PROPERTIES
from .two_processes import process_invariance

STUDENT: Mapping[str, Any] = {"family": "llama", "seed": 1}
TEACHER: Mapping[str, Any] = {"family": "llama", "seed": 2, "num_hidden_layers": 3}


def conformance(
    component: Any,
    *,
    plugins: Sequence[Any] = (),
    options: Mapping[str, Any] | None = None,
    reference: Callable[..., Any] | None = None,
    lacks: Mapping[str, str] | None = None,
    student: Mapping[str, Any] = STUDENT,
    teacher: Mapping[str, Any] = TEACHER,
    columns: Mapping[str, Sequence[Any]] | None = None,
    num_teachers: int = 1,
    data: Callable[[], tuple[Any, Callable[..., Any]]] | None = None,
) -> Callable[..., None]:
    """A pytest function that checks the properties of a loss, a test each.

    Args:
        component: the name of a registered loss, or the loss itself: a function, a class, an object.
        plugins: what to activate so that the name is known.
        options: of the loss.
        reference: the value by another road; without it "reference_value" is not checked. Of a row loss it takes the
            logits of student and teacher as float64 NumPy arrays ``[n, V]``, labels and columns ``[n]`` and the
            temperature by keyword where the loss reads them, and gives ``[n]``; of a batch loss it takes what the loss
            takes, in float64, and gives the sum.
        lacks: properties that the loss does not have, and why; that it really does not have them is checked.
        student: options of `tiny_model`, "family" among them; "transforms" is a list of those that are applied to it,
            each a mapping of name and options.
        teacher: options of `tiny_model`.
        columns: columns that the loss reads, by name: four values, one for each example.
        num_teachers: how many teachers a row loss takes the logits of.
        data: makes the data that the loss is tried on, a data set of four examples and a collator: for losses of nested
            batches.

    Returns:
        What pytest collects once it stands in a test file under a name that begins with ``test``.

    Raises:
        ValueError: `lacks` names a property that there is not, or gives no reason; the loss is not known.
    """
    import pytest

    subject = Subject(component, plugins, options or {}, reference, student, teacher, columns or {}, num_teachers, data)
    properties = properties_of(subject)
    reasons = dict(lacks or {})
    for name, reason in reasons.items():
        if name not in properties:
            raise ValueError(
                f"{subject.name} states that it lacks {name!r}, which is not checked{did_you_mean(name, properties)}. "
                f"Checked: {', '.join(properties)}."
            )
        if not reason.strip():
            raise ValueError(f"{subject.name} states that it lacks {name!r}; say why.")

    @pytest.mark.parametrize("name", properties)
    def test(name: str) -> None:
        __tracebackhide__ = True
        check(subject, name, lacks=reasons.get(name))

    return test


def conformance_on_two_processes(
    component: str,
    *,
    plugins: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    student: Mapping[str, Any] = STUDENT,
    teacher: Mapping[str, Any] = TEACHER,
    columns: Mapping[str, Sequence[Any]] | None = None,
    num_teachers: int = 1,
) -> Callable[[], None]:
    """A pytest function, marked "distributed", that compares a step on two processes with the same step on one.

    Takes what `conformance` does; the loss by its registered name, since the processes start anew. Takes about 20
    seconds.
    """
    import pytest

    subject = Subject(component, plugins, options or {}, None, student, teacher, columns or {}, num_teachers)

    @pytest.mark.distributed
    def test() -> None:
        __tracebackhide__ = True
        prove(subject, process_invariance)

    return test


def properties_of(subject: Subject) -> dict[str, Callable[[Subject], None]]:
    """The checks of this kind of loss, by name."""
    own = BATCH_PROPERTIES if subject.is_batch_loss else ROW_PROPERTIES
    properties = {**own, **TRAINING_PROPERTIES}
    if subject.reference is None:
        del properties["reference_value"]
    return properties


def check(subject: Subject, name: str, *, lacks: str | None = None) -> None:
    """Check one property, or that it really is not there.

    Raises:
        AssertionError: the loss lacks the property, or has it and states that it does not.
    """
    property_check = properties_of(subject)[name]
    if lacks is None:
        prove(subject, property_check)
        return
    try:
        property_check(subject)
    except Exception:
        return
    raise AssertionError(f"{subject.name} states that it lacks {name!r} ({lacks}), but has it. Strike the statement.")


def prove(subject: Subject, property_check: Callable[[Subject], None]) -> None:
    """Run one check, and say what it is about where it fails.

    Raises:
        AssertionError: the loss lacks the property, or fails on the way.
    """
    try:
        property_check(subject)
    except Exception as error:
        problem = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        prevents = (property_check.__doc__ or "").partition("\n")[0]
        raise AssertionError(
            f"{subject.name} lacks {property_check.__name__!r}: {problem}\nWhat this prevents: {prevents}"
        ) from error
