"""Domain mixtures: drawing, state, and what bad input says."""

from __future__ import annotations

import json
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.data.mixture import FixedMixture, MixtureSelector
from hf_distill.data.selectors import read_columns
from hf_distill.testing import causal_lm_dataset

NAMES = ["code"] * 7 + ["prose"] * 3 + ["code"] * 2 + ["mail"] * 4


def mixture(*, names=NAMES, seed=0, weights=None):
    selector = MixtureSelector()
    selector.setup({"domain": names}, num_examples=len(names), seed=seed)
    if weights is not None:
        selector.weights = weights
    return selector


def test_shares_follow_the_weights_and_not_the_sizes():
    weights = np.array([0.2, 0.5, 0.3])
    drawn = Counter(NAMES[index] for index in mixture(weights=weights).draw(40_000))
    shares = np.array([drawn[domain] for domain in ("code", "mail", "prose")]) / 40_000
    # Four standard deviations of a binomial share.
    assert (np.abs(shares - weights) < 4 * np.sqrt(weights * (1 - weights) / 40_000)).all()


def test_a_domain_is_used_up_before_any_of_its_examples_comes_again_in_another_order():
    drawn = [index for index in mixture(weights=[1, 1, 0]).draw(400) if NAMES[index] == "code"]
    passes = [drawn[start : start + 9] for start in range(0, len(drawn) - 9, 9)]
    members = [index for index, name in enumerate(NAMES) if name == "code"]
    assert len(passes) > 10
    assert all(sorted(one) == members for one in passes)
    assert len({tuple(one) for one in passes}) == len(passes)


def test_a_domain_without_weight_is_never_drawn_wherever_it_stands():
    for zero in range(3):
        selector = mixture(weights=[float(domain != zero) for domain in range(3)])
        assert selector.domains[zero] not in {NAMES[index] for index in selector.draw(2_000)}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 10_000))
def test_drawing_in_parts_is_drawing_at_once(parts, seed):
    weights = [1, 2, 3]
    whole = mixture(seed=seed, weights=weights).draw(sum(parts))
    selector = mixture(seed=seed, weights=weights)
    assert [index for part in parts for index in selector.draw(part)] == whole


def test_a_selector_restored_from_json_draws_on_as_if_nothing_had_happened():
    selector = mixture(weights=[0.1, 0.6, 0.3])
    selector.draw(37)
    state = json.loads(json.dumps(selector.state_dict()))
    expected = selector.draw(50)
    restored = mixture(seed=99)
    restored.draw(11)
    restored.load_state_dict(state)
    assert restored.draw(50) == expected
    # Bit for bit: weights that were normalised again would differ in the last place now and then.
    assert restored.weights.tolist() == selector.weights.tolist()


def test_new_weights_count_from_the_next_draw_on():
    selector = mixture(weights=[1, 0, 0])
    assert {NAMES[index] for index in selector.draw(30)} == {"code"}
    selector.weights = [0, 0, 1]
    assert {NAMES[index] for index in selector.draw(30)} == {"prose"}
    assert selector.logs() == {"mixture/code": 0.0, "mixture/mail": 0.0, "mixture/prose": 1.0}


def test_another_seed_draws_others_and_global_generators_stay_as_they_were():
    before = np.random.get_state()[1].tolist(), random.getstate()
    assert mixture(seed=1).draw(50) != mixture(seed=2).draw(50)
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before


def test_natural_shares_follow_the_sizes_and_uniform_shares_are_equal():
    assert mixture().weights.tolist() == [9 / 16, 4 / 16, 3 / 16]
    for weights, expected in (("natural", [9 / 16, 4 / 16, 3 / 16]), ("uniform", [1 / 3] * 3)):
        selector = FixedMixture(weights=weights)
        selector.setup({"domain": NAMES}, num_examples=16, seed=0)
        assert selector.weights == pytest.approx(expected)


def test_shares_by_name_are_normalised_and_names_may_be_numbers():
    selector = FixedMixture(weights={"prose": 6, "code": 1.5, "mail": 0})
    selector.setup({"domain": NAMES}, num_examples=16, seed=0)
    assert selector.logs() == {"mixture/code": 0.2, "mixture/mail": 0.0, "mixture/prose": 0.8}
    numbered = FixedMixture(weights={0: 1, 1: 3}, domain_column="source")
    numbered.setup({"source": [1, 0, 1]}, num_examples=3, seed=0)
    assert numbered.logs() == {"mixture/0": 0.25, "mixture/1": 0.75}


def test_weights_and_data_that_differ_in_a_domain_are_an_error():
    for weights, wrong in (
        ({"code": 1, "mail": 1, "prose": 1, "poems": 1}, "poems"),
        ({"code": 1, "mail": 1}, "prose"),
    ):
        with pytest.raises(ValueError, match=f"differ in the domains {wrong}.*code, mail, prose"):
            FixedMixture(weights=weights).setup({"domain": NAMES}, num_examples=16, seed=0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, float("nan"), 1], "'mail' is nan"),
        ([1, 1, -0.5], "'prose' is -0.5"),
        ([float("inf"), 1, 1], "'code' is inf"),
        ([0, 0, 0], "all domains are zero"),
        ([1, 1], "one a domain, 3"),
    ],
)
def test_impossible_weights_are_an_error(weights, message):
    with pytest.raises(ValueError, match=message):
        mixture(weights=weights)


def test_missing_domains_are_an_error():
    with pytest.raises(ValueError, match=r"no column 'domain' .* it has source, text"):
        MixtureSelector().setup({"source": [], "text": []}, num_examples=0, seed=0)
    with pytest.raises(ValueError, match=r"Example 1 .* no 'domain'"):
        mixture(names=["code", None])
    with pytest.raises(ValueError, match="domains mail, which the training set has; it has prose, code"):
        mixture().by_domain({"prose": 1.0, "code": 2.0})
    assert mixture().by_domain({"prose": 1.0, "other": 9.0, "code": 2.0, "mail": 3.0}).tolist() == [2.0, 3.0, 1.0]


def test_options_that_make_no_sense_are_an_error():
    with pytest.raises(ValueError, match="interval is 0"):
        MixtureSelector(interval=0)
    with pytest.raises(ValueError, match="'even'"):
        FixedMixture(weights="even")


def test_one_domain_works_with_a_warning():
    with pytest.warns(UserWarning, match="'code'; a selector of domains changes nothing"):
        selector = mixture(names=["code"] * 3)
    assert sorted(selector.draw(3)) == [0, 1, 2]


def test_a_checkpoint_of_other_data_is_an_error():
    with pytest.raises(ValueError, match=r"sizes \{'code': 9.*training set has \{'code': 7, 'prose': 3\}"):
        mixture(names=NAMES[:10]).load_state_dict(mixture().state_dict())


def test_columns_are_read_from_any_kind_of_data_set():
    tables = causal_lm_dataset(4, num_domains=2)
    for dataset in (tables, tables.with_format("torch"), tables.to_list()):
        assert read_columns(dataset, ["domain"], what="probe set") == {"domain": ["d0", "d1", "d0", "d1"]}
        with pytest.raises(ValueError, match=r"The probe set has no column 'text'; it has .*input_ids.*domain"):
            read_columns(dataset, ["domain", "text"], what="probe set")
