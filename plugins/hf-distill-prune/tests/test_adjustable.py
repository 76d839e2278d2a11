"""An encoder whose words leave: the same at full length, for whatever else is in the batch, and after loading."""

from __future__ import annotations

import copy

import pytest
import torch
from hf_distill_prune.adjustable import attention_profile, elimination_of, set_speed
from torch.utils.flop_counter import FlopCounterMode
from transformers import DataCollatorWithPadding, TrainingArguments

from hf_distill import DistillationTrainer, Plugins, build_student, load_student, transform
from hf_distill.testing import classification_dataset, tiny_inputs, tiny_model, tiny_tokenizer

from .conftest import batches, make, output

PLUGINS = Plugins(["prune"])
BERTS = ["bert", "bert, classes", "roberta", "camembert", "electra"]


def eager(name):
    model = make(name)
    model.set_attn_implementation("eager")
    return model


def eliminating(name, profile=(0.6, 0.4), **options):
    model = make(name)
    transform(model, "eliminate_words", plugins=PLUGINS, profile=list(profile), **options)
    return model


@pytest.mark.parametrize("name", BERTS)
@pytest.mark.parametrize("options", [{"profile": (1.0, 1.0)}, {"coefficient": None}, {"coefficient": 5.0}])
def test_a_model_at_full_length_gives_the_original_output(name, options):
    assert torch.equal(output(eliminating(name, **options)), output(eager(name)))


@pytest.mark.parametrize("name", BERTS)
def test_what_an_example_gives_does_not_depend_on_the_others_in_its_batch(name):
    model = eliminating(name)
    inputs = tiny_inputs(model)
    together = output(model)
    assert not torch.allclose(together, output(eager(name)), atol=1e-4), "nothing left"
    for index, length in enumerate(inputs["attention_mask"].sum(-1).tolist()):
        with torch.no_grad():
            found = model(input_ids=inputs["input_ids"][index : index + 1, :length])
        alone = (found.logits if "logits" in found else found.last_hidden_state)[0]
        wanted = together[index] if alone.dim() == 1 else together[index, :length]
        torch.testing.assert_close(alone, wanted, rtol=1e-4, atol=1e-5)


def test_words_that_left_keep_their_places_and_their_last_attention_output():
    """A word that left after a block is the stock attention's output of that block, there and then."""
    model, stock = eliminating("bert", profile=(0.5, 0.5)), eager("bert")
    inputs = {key: value[:1] for key, value in tiny_inputs(stock).items()}
    seen = {}
    stock.encoder.layer[0].attention.register_forward_hook(lambda *args: seen.update(first=args[2][0]))
    with torch.no_grad():
        stock(**inputs)
        found = model(**inputs).last_hidden_state
    places = elimination_of(model).places[0][0].tolist()
    left = sorted(set(range(inputs["input_ids"].shape[1])) - set(places))
    assert len(places) == round(0.5 * inputs["input_ids"].shape[1])
    torch.testing.assert_close(found[0, left], seen["first"][0, left])
    assert not torch.allclose(found[0, places], seen["first"][0, places], atol=1e-3)


def test_a_smaller_coefficient_is_less_work():
    model = eliminating("bert, classes", profile=(0.9, 0.8))
    work = []
    for coefficient in (None, 1.0, 0.7, 0.4, 0.1):
        set_speed(model, coefficient)
        with FlopCounterMode(display=False) as counter:
            output(model)
        work.append(counter.get_total_flops())
    assert work == sorted(set(work), reverse=True)


@pytest.mark.parametrize("coefficient", [None, 0.5])
def test_a_saved_student_has_the_same_speed_and_the_same_logits(coefficient, tmp_path):
    model = eliminating("bert, classes")
    set_speed(model, coefficient)
    model.save_pretrained(tmp_path)
    loaded = load_student(tmp_path, plugins=["prune"])
    assert elimination_of(loaded).coefficient == coefficient
    assert torch.equal(output(loaded), output(model))
    assert set(loaded.state_dict()) == set(make("bert, classes").state_dict())


def test_changing_the_speed_of_a_copy_does_not_change_the_original():
    model = eliminating("bert, classes")
    wanted = output(model)
    twin = copy.deepcopy(model)
    set_speed(twin, None)
    assert torch.equal(output(model), wanted)
    assert torch.equal(output(twin), output(eager("bert, classes")))


def test_gradient_checkpointing_does_not_change_the_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = eliminating("bert, classes").train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        model(**tiny_inputs(model), labels=torch.tensor([0, 1, 2])).loss.backward()
        gradients.append(model.bert.embeddings.word_embeddings.weight.grad)
    torch.testing.assert_close(*gradients)


def test_the_profile_never_rises_with_depth_and_grows_with_the_share_of_attention(tmp_path):
    model = make("bert, classes")
    profile = attention_profile(model, batches(model), share=0.8, minimum=0.2)
    assert model.config._attn_implementation == "sdpa", "the model was changed"
    assert sorted(profile, reverse=True) == profile
    more = attention_profile(model, batches(model), share=0.95, minimum=0.2)
    assert all(one <= other for one, other in zip(profile, more, strict=True))
    assert attention_profile(model, batches(model), share=1.0) == [1.0, 1.0]
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("w7 w8 w9 w20\nw11 w12\n" * 8)
    options = {"texts": str(tmp_path / "texts.txt"), "share": 0.8}
    build = build_student(tmp_path / "model", "adjustable", plugins=PLUGINS, **options)
    assert elimination_of(build.model).profile == build.record["profile"]
    assert build.record["profile"][-1] < 1


def test_training_with_elimination_learns(tmp_path):
    student, teacher = eliminating("bert, classes"), tiny_model("bert_classifier", seed=3)
    arguments = {"max_steps": 30, "learning_rate": 3e-3, "per_device_train_batch_size": 8, "disable_tqdm": True}
    trainer = DistillationTrainer(
        student,
        TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", save_strategy="no", **arguments),
        teacher=teacher,
        losses=["forward_kl"],
        train_dataset=classification_dataset(64),
        eval_dataset=classification_dataset(32, seed=1),
        data_collator=DataCollatorWithPadding(tiny_tokenizer()),
        processing_class=tiny_tokenizer(),
    )
    before = trainer.evaluate()["eval_forward_kl_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_forward_kl_loss"] < 0.8 * before


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("bert", {"profile": [0.5]}, "profile has 1 shares; expected one for each of 2 blocks"),
        ("bert", {"profile": [0.5, 0.6]}, r"expected shares in \(0, 1\] that do not rise"),
        ("bert", {"profile": [1, 1], "coefficient": 0}, "coefficient is 0; expected a positive number"),
        ("llama", {"profile": [1, 1]}, "LlamaForCausalLM has no blocks like BERT's; words can leave in BERT"),
        ("t5", {"profile": [1, 1]}, "T5ForConditionalGeneration has no blocks like BERT's"),
    ],
)
def test_impossible_options_and_models_are_refused(family, options, message):
    with pytest.raises(ValueError, match=message):
        transform(tiny_model(family), "eliminate_words", plugins=PLUGINS, **options)


def test_the_speed_of_a_model_without_elimination_cannot_be_set():
    with pytest.raises(ValueError, match="BertModel does not eliminate words; build it with the builder `adjustable`"):
        set_speed(make("bert"), 0.5)
