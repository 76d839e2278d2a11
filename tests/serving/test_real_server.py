"""The endpoint teacher against `transformers serve` with real small models, over real HTTP on the loopback address."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_distill import EndpointTeacher, Ledger, TeacherUnavailable


def continued(folder, inputs, num_tokens):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=num_tokens, do_sample=False, pad_token_id=0)
    return output[0, inputs["input_ids"].shape[1] :]


def test_a_chat_is_answered_as_the_model_itself_answers_it(real_server, chat_model, tmp_path):
    chat = [{"role": "system", "content": "w7"}, {"role": "user", "content": "w8 w9"}]
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    expected = continued(chat_model, inputs, 6)
    with Ledger(tmp_path) as ledger:
        teacher = EndpointTeacher(real_server, str(chat_model), max_tokens=6, prompt_price=1e6, completion_price=1e6)
        teacher.attach(ledger=ledger)
        [answer] = teacher.generate([chat], purpose="round 1")
        assert answer.text.split() == tokenizer.decode(expected, skip_special_tokens=True).split()
        assert (answer.status, answer.usage.prompt_tokens) == ("answered", 3)
        assert answer.usage.completion_tokens == len(expected)
        assert answer.usage.cost == 3 + len(expected)
        assert teacher.generate([chat])[0].from_ledger
        assert ledger.summary("round 1").num_attempts == 1


def test_plain_text_is_continued_by_a_model_without_a_template(real_server, shared_data, tmp_path):
    folder = shared_data / "stories260k" / "hf"
    prompts = ["Once upon a time", "Lily had a", "The dog", "One day, Tom"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with Ledger(tmp_path) as ledger:
        teacher = EndpointTeacher(real_server, str(folder), chat=False, max_tokens=16, concurrency=3)
        teacher.attach(ledger=ledger)
        answers = teacher.generate(prompts)
        for prompt, answer in zip(prompts, answers, strict=True):
            inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
            assert answer.text == tokenizer.decode(continued(folder, inputs, 16), skip_special_tokens=True)
            assert (answer.usage.completion_tokens, answer.finish_reason) == (16, "length")
        assert ledger.summary().completion_tokens == 64


def test_an_unknown_model_is_an_error_and_not_a_run_of_failures(real_server, tmp_path):
    with Ledger(tmp_path) as ledger:
        teacher = EndpointTeacher(real_server, "no/such-model", attempts=2, first_wait=0.01)
        teacher.attach(ledger=ledger)
        # `transformers serve` answers 500 to it, and not 404.
        with pytest.raises(TeacherUnavailable, match=r"answered none of 1 requests, the last with: .* 500"):
            teacher.generate(["a"])
        assert ledger.summary().answers == {"unanswered": 1}
