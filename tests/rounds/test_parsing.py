from __future__ import annotations

import json

import pytest

from hf_distill.rounds.parsing import parse_items

A, B = {"text": "a [b] c", "label": "x"}, {"text": "d", "label": 3}
CLEAN = json.dumps([A, B])


@pytest.mark.parametrize(
    "answer",
    [
        CLEAN,
        json.dumps([A, B], indent=2),
        f"```json\n{CLEAN}\n```",
        f"Sure! Here are [2] samples, as asked:\n```\n{CLEAN}\n```\nHope this helps [really].",
        f"<think>maybe [{{'text'?</think>{CLEAN}",
        json.dumps({"samples": [A, B]}),
        f"{json.dumps(A)}\n{json.dumps(B)}",
        f"1. {json.dumps(A)}\n2. {json.dumps(B)}",
        f"{json.dumps([A])}\n\n{json.dumps([B])}",
        CLEAN.replace("}]", "},]").replace('"x"}', '"x",}'),
        CLEAN.replace('"', "'"),
        CLEAN[:-1] + ",\n] I made two.",
    ],
)
def test_items_are_found_whatever_stands_around_or_between_them(answer):
    parsed = parse_items(answer)
    assert parsed.items == [A, B]
    assert not parsed.truncated


def test_an_unescaped_quote_does_not_end_the_text():
    assert parse_items('[{"text": "he said "no" to me", "label": "x"}]').items[0]["text"] == 'he said "no" to me'


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_half_a_text_is_left_out_where_the_answer_broke_off(cut):
    parsed = parse_items(json.dumps([A, B, {"text": "a sentence cut in the", "label": "y"}])[:-cut])
    assert parsed.items == [A, B]
    assert parsed.truncated


@pytest.mark.parametrize("answer", ["", "I am sorry, I cannot help with that.", "[]", "[1, 2]", '{"text": "half', "{}"])
def test_an_answer_without_items_is_an_error(answer):
    if answer == "{}":
        assert parse_items(answer).items == [{}]  # an item that no schema accepts
        return
    with pytest.raises(ValueError, match=r"^(it holds no JSON list|its JSON list is empty)"):
        parse_items(answer)
