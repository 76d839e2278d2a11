"""The selector on a probe that says what it is told: mixtures, state and errors."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hf_distill_ddk.recursion import log_factors_initial, log_factors_update
from hf_distill_ddk.selector import DDKSelector

from hf_distill import Plugins

NAMES = ["code"] * 6 + ["mail"] * 3 + ["prose"] * 3
TEACHER = [1.0, 2.0, 1.5]


class FakeProbe:
    """Knows each domain's cross-entropy; the student's may be changed."""

    def __init__(self, student, *, teacher=TEACHER, domains=("code", "mail", "prose")):
        self.domains = domains
        self.figures = {"student": student, "teacher": teacher}

    def cross_entropy(self, model):
        return dict(zip(self.domains, self.figures[model], strict=True))

    def bits_per_byte(self, model):
        return {domain: nats / math.log(2) / 4 for domain, nats in self.cross_entropy(model).items()}


def ddk(names=NAMES, **options):
    selector = DDKSelector(**options)
    selector.setup({"domain": names}, num_examples=len(names), seed=0)
    return selector


def ratios(student):
    return np.exp(np.array(student) - TEACHER)


@pytest.mark.parametrize(
    ("initial_mix", "expected"),
    [
        ("natural", [0.5, 0.25, 0.25]),
        ("uniform", [1 / 3] * 3),
        ("r0", np.exp(log_factors_initial(ratios([1.5, 2.0, 2.5])))),
    ],
)
def test_the_first_interval_is_mixed_as_told_and_the_recursion_starts_from_equation_one(initial_mix, expected):
    selector = ddk(initial_mix=initial_mix)
    selector.start(FakeProbe([1.5, 2.0, 2.5]))
    np.testing.assert_allclose(selector.weights, expected, rtol=1e-14)
    selector.update(1000, FakeProbe([1.4, 2.1, 2.0]))
    start = log_factors_initial(ratios([1.5, 2.0, 2.5]))
    moved = np.exp(log_factors_update(start, ratios([1.4, 2.1, 2.0]), alpha=0.5))
    np.testing.assert_allclose(selector.weights, moved, rtol=1e-14)


def test_without_smoothing_only_the_last_measurement_counts():
    selector = ddk(factor_smoothing=False)
    selector.start(FakeProbe([9.0, 2.0, 2.5]))
    selector.update(1000, FakeProbe([1.4, 2.1, 2.0]))
    np.testing.assert_allclose(selector.weights, np.exp(log_factors_initial(ratios([1.4, 2.1, 2.0]))), rtol=1e-14)


def test_domains_are_matched_by_name_and_not_by_place():
    selector = ddk()
    shuffled = FakeProbe([2.5, 9.9, 1.5, 2.0], teacher=[1.5, 0.0, 1.0, 2.0], domains=("prose", "other", "code", "mail"))
    selector.start(shuffled)
    assert selector.history[0]["ratios"] == pytest.approx({"code": math.exp(0.5), "mail": 1, "prose": math.e})


def test_bits_per_byte_become_perplexities_of_bytes():
    selector = ddk(measure="bits_per_byte")
    selector.start(FakeProbe([1.4, 2.8, 2.3]))
    # Four bytes a token: the fourth root of the perplexity per token.
    assert list(selector.history[0]["ratios"].values()) == pytest.approx([math.exp(g / 4) for g in (0.4, 0.8, 0.8)])


def test_max_ratio_keeps_a_student_that_has_learnt_nothing_from_a_one_hot_mixture():
    far = FakeProbe([9.0, 9.5, 11.0])
    one_hot, cut = ddk(initial_mix="r0"), ddk(initial_mix="r0", max_ratio=5.0)
    one_hot.start(far)
    cut.start(far)
    assert one_hot.weights.tolist() == [0, 0, 1]
    assert cut.weights.tolist() == pytest.approx([1 / 3] * 3)


def test_a_restored_selector_goes_on_to_the_last_bit():
    selector = ddk(interval=5)
    selector.start(FakeProbe([1.5, 2.0, 2.5]))
    selector.update(5, FakeProbe([1.4, 2.1, 2.0]))
    state = json.loads(json.dumps(selector.state_dict()))
    restored = ddk(interval=5)
    restored.load_state_dict(state)
    for one in (selector, restored):
        one.update(10, FakeProbe([1.2, 2.2, 1.9]))
    assert restored.state_dict() == selector.state_dict()
    assert restored.draw(40) == selector.draw(40)
    assert [entry["step"] for entry in restored.history] == [0, 5, 10]
    assert len(state["history"]) == 2


def test_the_log_has_the_mixture_and_the_last_ratios():
    selector = ddk()
    selector.start(FakeProbe([1.5, 2.0, 2.5]))
    logs = selector.logs()
    assert logs["mixture/code"] == 0.5
    assert logs["ddk/ratio/prose"] == pytest.approx(math.e)
    assert len(logs) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"initial_mix": "random"}, "initial_mix is 'random'"),
        ({"measure": "loss"}, "measure is 'loss'"),
        ({"max_ratio": 0}, "max_ratio is 0"),
        ({"interval": 0}, "interval is 0"),
    ],
)
def test_an_option_out_of_its_range_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        DDKSelector(**options)


def test_a_probe_set_that_is_missing_incomplete_or_not_finite_is_an_error():
    with pytest.raises(ValueError, match=r"give the trainer probe_dataset=.* column 'domain'"):
        ddk().start(None)
    with pytest.raises(ValueError, match=r"no examples of the domains mail.*it has code, prose"):
        ddk().start(FakeProbe([1.0, 1.0], teacher=[1.0, 1.0], domains=("code", "prose")))
    with pytest.raises(ValueError, match="not finite"):
        ddk().start(FakeProbe([1.0, float("nan"), 1.0]))


def test_the_plugin_is_found_by_its_name_and_does_not_import_torch():
    assert isinstance(Plugins(["ddk"]).selectors.create("ddk", {"alpha": 0.3}), DDKSelector)
    source = "import sys, hf_distill_ddk; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", source], check=True)
