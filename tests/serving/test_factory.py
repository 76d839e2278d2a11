from __future__ import annotations

import pytest

import hf_distill
from hf_distill import (
    Answer,
    Budget,
    EndpointTeacher,
    Ledger,
    LocalTextTeacher,
    Plugins,
    TextTeacher,
    make_text_teacher,
)
from hf_distill.testing import tiny_model, tiny_tokenizer
from hf_distill.training.specs import make_teachers


class Oracle(TextTeacher):
    """Says what it was told to say."""

    model = "oracle"

    def __init__(self, *, says: str) -> None:
        self.says = says

    def ask(self, requests, account):
        """See `TextTeacher.ask`."""
        for request in requests:
            account.begin(request)
            account.finish(request, Answer(self.says))


class WithOracle:
    @hf_distill.hookimpl
    def register_teachers(self, register):
        register("oracle", Oracle, kind="text")


def test_each_kind_is_made_from_its_description_with_ledger_and_budget(tmp_path, chat_model):
    budget = Budget(requests=1)
    with Ledger(tmp_path) as ledger:
        for spec, made in [
            ({"kind": "endpoint", "url": "http://127.0.0.1:1/v1/", "model": "m"}, EndpointTeacher),
            ({"kind": "local", "model": str(chat_model), "max_tokens": 3}, LocalTextTeacher),
            ({"model": str(chat_model)}, LocalTextTeacher),
            (chat_model, LocalTextTeacher),
            (LocalTextTeacher(tiny_model("llama"), tokenizer=tiny_tokenizer()), LocalTextTeacher),
        ]:
            teacher = make_text_teacher(spec, ledger=ledger, budget=budget)
            assert type(teacher) is made
            assert (teacher.ledger, teacher.budget) == (ledger, budget)


def test_a_plugin_adds_a_kind():
    teacher = make_text_teacher({"kind": "oracle", "says": "42"}, plugins=Plugins([WithOracle()]))
    assert teacher.generate(["?"])[0].text == "42"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "oracle", "says": "42"}, "there is no text teacher 'oracle'"),
        ({"kind": "endpiont", "url": "u"}, "did you mean 'endpoint'"),
        ({"kind": "endpoint", "url": "http://h/v1"}, "needs the option 'model'"),
        ({"kind": "endpoint", "url": "http://h/v1", "model": "m", "temprature": 1}, "did you mean 'temperature'"),
        ({"kind": "endpoint", "url": "http://h/v1", "model": "m", "ledger": "x"}, "has no option 'ledger'"),
        (None, "There is no teacher"),
    ],
)
def test_a_description_with_a_mistake_is_one_clear_error(spec, message):
    with pytest.raises(ValueError, match=message):
        make_text_teacher(spec)


def test_a_plugin_that_makes_something_else_is_named():
    class Wrong:
        @hf_distill.hookimpl
        def register_teachers(self, register):
            register("wrong", lambda: "text", kind="text")

    with pytest.raises(ValueError, match=r"'wrong' of Wrong .* makes a str; expected a TextTeacher"):
        make_text_teacher({"kind": "wrong"}, plugins=Plugins([Wrong()]))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "endpoint", "url": "http://h/v1", "model": "m"}, "'endpoint' is a text teacher of serving"),
        (Oracle(says="42"), "writes text and gives no signal for a batch"),
    ],
)
def test_a_teacher_that_writes_text_cannot_guide_a_training(spec, message):
    with pytest.raises(ValueError, match=message):
        make_teachers(spec, Plugins())


def test_kinds_of_teachers_of_one_name_are_told_apart():
    plugins = Plugins()
    assert plugins.teachers.get("local").target != plugins.registry("teachers", "text").get("local").target

    class Wrong:
        @hf_distill.hookimpl
        def register_teachers(self, register):
            register("a", print, kind="txt")

    with pytest.raises(hf_distill.PluginError, match="'txt' of teachers; expected 'signal' or 'text'"):
        Plugins([Wrong()])
