from __future__ import annotations

import random

import pytest

from hf_distill.rounds.checks import REASONS, RowChecker, RowChecks, normalised

LABELS = ["card_lost", "Refund status", "7"]
TRAIN = ["where is my refund for the blue shoes", "my card is gone"]
FORBIDDEN = ["somebody took my wallet in the train station"]


def checker(**checks):
    return RowChecker(LABELS, train=TRAIN, forbidden=FORBIDDEN, checks=RowChecks.parse(checks))


def reason(text, label="card_lost", **checks):
    return checker(**checks).check({"text": text, "label": label}).reason


@pytest.mark.parametrize("row", ["text", ["a", "b"], {}, {"text": 3, "label": "card_lost"}, {"text": "a b"}, None])
def test_a_row_without_text_and_label_is_rejected(row):
    assert checker().check(row).reason == "schema"
    assert checker().check({"text": "good text", "label": True}).reason == "schema"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("card_lost", "card_lost"),
        ("Card Lost", "card_lost"),
        ("refund-status ", "Refund status"),
        (1, "Refund status"),
        ("1", "Refund status"),
        ("7", "7"),  # a name goes before an id
        ("card", None),
        (3, None),
        (-1, None),
        ("²", None),
        ("", None),
    ],
)
def test_labels_by_id_or_in_another_spelling_are_recognised_and_unknown_labels_are_not(label, name):
    assert checker().label_name(label) == name


def test_two_labels_that_look_alike_are_told_apart_by_exact_spelling():
    alike = RowChecker(["a b", "a_b"], train=[])
    assert alike.label_name("a_b") == "a_b"
    assert alike.label_name("A B") is None


@pytest.mark.parametrize("text", ["", "   ", "?", "...", "x" * 4001])
def test_empty_or_endless_texts_are_rejected(text):
    assert reason(text) == "length"


def test_copies_and_near_copies_of_training_and_validation_texts_are_rejected():
    assert reason(TRAIN[0]) == "duplicate"
    assert reason(f" {TRAIN[1]}\n") == "duplicate"
    assert reason("Where is my REFUND, for the blue shoes?!") == "near_duplicate"
    assert reason("for the blue shoes, where is my refund") == "near_duplicate", "only the order of words changed"
    assert reason(FORBIDDEN[0]) == "leak"
    assert reason("somebody took my wallets in the train station") == "near_leak"
    assert reason("the bank says my money is on its way back") == ""


def test_a_check_can_be_turned_off():
    assert reason("Where is my REFUND, for the blue shoes?!", near_duplicate=None) == ""
    assert reason("somebody took my wallets in the train station", near_leak=None) == ""
    assert reason("x", min_characters=None) == ""
    assert reason("x" * 5000, max_characters=None) == ""


def test_rows_that_repeat_an_accepted_row_are_rejected():
    rows = [{"text": "quite new words here", "label": 0}, {"text": "Quite new words here.", "label": 1}]
    mine = checker()
    assert [verdict.reason for verdict in mine.check_round(rows, num_asked=8)] == ["", "near_duplicate"]
    assert [verdict.reason for verdict in mine.check_round(rows[:1], num_asked=8)] == ["duplicate"]


def test_a_class_has_at_most_its_share_of_a_round_and_surplus_rows_are_rejected():
    words = random.Random(0).sample([f"{a}{b}{c}" for a in "bdfg" for b in "aeiou" for c in "klmnp"], 60)
    rows = [{"text": " ".join(words[5 * n : 5 * n + 5]), "label": int(n >= 6)} for n in range(12)]
    verdicts = checker(max_class_share=0.4).check_round(rows, num_asked=10)
    assert [verdict.reason for verdict in verdicts] == [*[""] * 4, *["balance"] * 2, *[""] * 4, *["surplus"] * 2]
    unlimited = checker(max_class_share=None).check_round(rows, num_asked=10)
    assert [verdict.reason for verdict in unlimited] == [*[""] * 10, *["surplus"] * 2]


def test_accepted_rows_have_the_label_in_the_spelling_of_the_classes_and_keep_other_fields():
    verdict = checker().check({"text": "  new words ", "label": "REFUND STATUS", "why": "further fields stay"})
    assert verdict.row == {"text": "new words", "label": "Refund status", "why": "further fields stay"}


def test_a_misspelt_check_or_an_impossible_value_is_an_error():
    with pytest.raises(ValueError, match="did you mean 'near_leak'"):
        RowChecks.parse({"near_leek": 3})
    with pytest.raises(ValueError, match="near_leak is 0;"):
        RowChecks.parse({"near_leak": 0})
    with pytest.raises(ValueError, match="max_class_share is 3"):
        RowChecks.parse({"max_class_share": 3})


def test_reasons_are_distinct_and_normalising_is_stable():
    assert len(set(REASONS)) == len(REASONS)
    assert normalised(normalised("A-b_C  d!")) == normalised("A-b_C  d!") == "a b c d"
