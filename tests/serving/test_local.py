from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from hf_distill import Budget, BudgetExhausted, Ledger, LocalTextTeacher
from hf_distill.testing import tiny_model, tiny_tokenizer

PROMPTS = ["w5 w6 w7", "w9", "w20 w21 w22 w23 w24 w25", "w30 w31"]


def make(family="llama", **options):
    return LocalTextTeacher(tiny_model(family), tokenizer=tiny_tokenizer(), **{"max_tokens": 8, **options})


def texts(teacher, prompts=PROMPTS, seed=0):
    return [answer.text for answer in teacher.generate(prompts, seed=seed)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_without_sampling_a_teacher_writes_what_generate_writes(family):
    teacher = make(family, temperature=0)
    tokenizer = tiny_tokenizer()
    for prompt, answer in zip(PROMPTS, teacher.generate(PROMPTS), strict=True):
        ids = tokenizer(prompt, return_tensors="pt")
        output = tiny_model(family).generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
        new = output[0, ids["input_ids"].shape[1] :]
        assert answer.text == tokenizer.decode(new, skip_special_tokens=True)
        assert answer.usage.prompt_tokens == len(prompt.split())
        assert answer.usage.completion_tokens == len(new)
        assert answer.usage.cost == 0.0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_answer_does_not_depend_on_the_prompts_beside_it_nor_on_their_order(family):
    together = texts(make(family, batch_size=4))
    assert texts(make(family, batch_size=1)) == together
    assert texts(make(family, batch_size=3), PROMPTS[::-1]) == together[::-1]
    assert texts(make(family), seed=1) != together
    assert len(set(together)) == 4


def test_a_prompt_given_twice_gets_two_answers_that_repeat_under_the_same_seed():
    teacher = make(temperature=5.0)
    first, second = texts(teacher, ["w5", "w5"])
    assert first != second
    assert texts(teacher, ["w5", "w5"]) == [first, second]


def test_the_random_numbers_and_the_mode_of_a_training_stay_as_they_were():
    teacher = make()
    teacher.module.train()
    state = torch.get_rng_state()
    texts(teacher)
    assert torch.equal(torch.get_rng_state(), state)
    assert teacher.module.training
    assert all(parameter.requires_grad for parameter in teacher.module.parameters())


def test_prompts_near_the_limit_get_the_room_that_they_have_and_those_beyond_it_fail():
    # The models take 64 tokens.
    prompts = ["w5 " * 60, "w6", "w7 " * 64]
    near, short, beyond = make(max_tokens=20).generate(prompts)
    assert (near.status, near.usage.completion_tokens, near.finish_reason) == ("answered", 4, "length")
    assert (beyond.status, beyond.error) == (
        "failed",
        "the prompt has 64 tokens; the model takes 64, its answer included",
    )
    assert short.usage.completion_tokens > 4
    assert short.text == texts(make(max_tokens=20), ["w6"])[0]
    assert make().generate([""])[0].error == "the prompt is empty"


def test_an_answer_ends_at_the_end_token():
    free = make(max_tokens=30, temperature=0).generate(["w30"])[0]
    assert (free.finish_reason, free.usage.completion_tokens) == ("length", 30)
    words = free.text.split()
    teacher = make(max_tokens=30, temperature=0)
    teacher.module.generation_config.eos_token_id = [2, tiny_tokenizer().convert_tokens_to_ids(words[15])]
    # The other goes on for longer, so that what follows the end is padding.
    ended = teacher.generate(["w30", "w9"])[0]
    assert (ended.finish_reason, ended.usage.completion_tokens) == ("stop", words.index(words[15]) + 1)
    assert ended.text.split() == words[: words.index(words[15]) + 1]


def test_an_answer_ends_before_a_stop_text():
    """With a tokenizer of bytes, as those of real models are."""
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(bytes_to_unicode().values())}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    options = {"tokenizer": PreTrainedTokenizerFast(tokenizer_object=tokenizer), "max_tokens": 20, "temperature": 0}
    model = tiny_model("llama", vocab_size=256, eos_token_id=None, pad_token_id=0)
    free = LocalTextTeacher(model, **options).generate(["ab"])[0]
    stop = free.text[6:8]
    stopped, other = LocalTextTeacher(model, stop=[stop], **options).generate(["ab", "xyz"])
    assert stopped.text == free.text[: free.text.index(stop)]
    assert (stopped.finish_reason, free.finish_reason) == ("stop", "length")
    assert stopped.usage.completion_tokens < free.usage.completion_tokens == 20
    assert stop not in other.text


def test_sampling_defaults_of_the_checkpoint_change_no_answer_and_cause_no_warning(recwarn):
    before = texts(make())
    teacher = make()
    teacher.module.generation_config.update(do_sample=True, temperature=0.1, top_p=0.5, top_k=1)
    assert texts(teacher) == before
    assert not [str(warning.message) for warning in recwarn]


def test_top_p_of_almost_nothing_is_greedy():
    assert texts(make(top_p=1e-6)) == texts(make(temperature=0))


def test_messages_go_through_the_chat_template_and_a_text_is_one_message(chat_model):
    teacher = LocalTextTeacher(chat_model, max_tokens=5, temperature=0)
    chat = [{"role": "system", "content": "w7"}, {"role": "user", "content": "w8"}]
    as_chat, as_text, same = teacher.generate([chat, "w8", [{"role": "user", "content": "w8"}]])
    assert (as_chat.usage.prompt_tokens, as_text.usage.prompt_tokens) == (2, 1)
    assert as_text.text == same.text
    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = AutoModelForCausalLM.from_pretrained(chat_model).generate(**ids, max_new_tokens=5, do_sample=False)
    assert as_chat.text == tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def test_messages_for_a_model_without_a_template_are_refused():
    with pytest.raises(ValueError, match="has no chat template, so a prompt is plain text"):
        make().generate([[{"role": "user", "content": "w5"}]])


def test_a_model_that_was_trained_since_is_not_answered_from_the_ledger(tmp_path):
    with Ledger(tmp_path) as ledger:
        teacher = make(temperature=0)
        teacher.attach(ledger=ledger)
        before = teacher.generate(PROMPTS)
        assert all(answer.from_ledger for answer in teacher.generate(PROMPTS))
        with torch.no_grad():
            teacher.module.get_output_embeddings().weight.neg_()
        after = teacher.generate(PROMPTS)
        assert not any(answer.from_ledger for answer in after)
        assert [answer.text for answer in before] != [answer.text for answer in after]


def test_a_budget_that_ends_within_a_batch_keeps_what_was_begun(tmp_path):
    with Ledger(tmp_path) as ledger:
        teacher = make()
        teacher.attach(ledger=ledger, budget=Budget(requests=3))
        with pytest.raises(BudgetExhausted) as stop:
            teacher.generate(PROMPTS)
        assert [answer and answer.text for answer in stop.value.answers] == [*texts(make(), PROMPTS[:3]), None]
        assert ledger.unanswered() == []


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"batch_size": 0}, {"temperature": -1}, {"top_p": 0}])
def test_options_that_make_no_sense_are_refused(options):
    [name] = options
    with pytest.raises(ValueError, match=f"{name} is {options[name]}"):
        make(**options)


def test_a_model_object_needs_its_tokenizer():
    with pytest.raises(ValueError, match="give tokenizer="):
        LocalTextTeacher(tiny_model("llama"))
