"""What the core itself offers, registered through the same hooks as everybody else's: it is its own first plugin."""

from __future__ import annotations

from ..hookspecs import Register, RegisterCommand, hookimpl

ROW_LOSSES = (
    "forward_kl",
    "reverse_kl",
    "jsd",
    "skewed_kl",
    "skewed_reverse_kl",
    "total_variation",
    "hellinger",
    "logit_mse",
)


@hookimpl
def register_losses(register: Register) -> None:
    """Divergences between predictions, and distances between features."""
    for name in ROW_LOSSES:
        register(name, f"hf_distill.losses.divergences:{name}")
    register("hidden_mse", "hf_distill.losses.hidden:HiddenMSE")
    register("hidden_cosine", "hf_distill.losses.hidden:HiddenCosine")
    register("attention_transfer", "hf_distill.losses.attention:AttentionTransfer")
    register("minilm_relations", "hf_distill.losses.relations:MiniLMRelations")


@hookimpl
def register_teachers(register: Register) -> None:
    """Models in this process."""
    register("local", "hf_distill.teachers.local:LocalTeacher")


@hookimpl
def register_selectors(register: Register) -> None:
    """Fixed shares of the domains."""
    register("mixture", "hf_distill.data.mixture:FixedMixture")


@hookimpl
def register_generators(register: Register) -> None:
    """Text that the student writes itself."""
    register("on_policy", "hf_distill.data.on_policy:OnPolicy")


@hookimpl
def register_students(register: Register) -> None:
    """Some of the teacher's layers, or a new model of another shape."""
    register("layer_drop", "hf_distill.students.layer_drop:layer_drop")
    register("fresh", "hf_distill.students.fresh:fresh")


@hookimpl
def register_metrics(register: Register) -> None:
    """How near the student is to the teacher, and how good by itself."""
    register("teacher_agreement", "hf_distill.metrics.agreement:TeacherAgreement")
    register("probability_loyalty", "hf_distill.metrics.loyalty:ProbabilityLoyalty")
    register("perplexity", "hf_distill.metrics.perplexity:Perplexity")
    register("calibration", "hf_distill.metrics.calibration:ExpectedCalibrationError")
    register("accuracy", "hf_distill.metrics.accuracy:Accuracy")
    register("f1", "hf_distill.metrics.f1:F1")
    register("evaluate", "hf_distill.metrics.published:PublishedMetric")
    register("recovery", "hf_distill.metrics.recovery:Recovery")


@hookimpl
def register_commands(register: RegisterCommand) -> None:
    """The sub-commands of ``hf-distill``."""
    register("train", "hf_distill.cli.train:train", help="Distil as a YAML file says.")
    register("stages", "hf_distill.cli.stages:stages", help="Train in stages: other teachers, data, losses.")
    register("student", "hf_distill.cli.student:student", help="Students: build, list, describe their cost.")
    register("plugins", "hf_distill.cli.plugins:plugins", help="List plugins and what they add.")
    register("new_plugin", "hf_distill.cli.new_plugin:new_plugin", help="Write a plugin package to start from.")
