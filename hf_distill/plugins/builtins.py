"""What the core itself offers, registered through the same hooks as everybody else's: it is its own first plugin."""

from __future__ import annotations

from ..hookspecs import Register, RegisterCommand, RegisterStudent, RegisterTeacher, hookimpl

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
def register_teachers(register: RegisterTeacher) -> None:
    """Models in this process, and servers that write text."""
    register("local", "hf_distill.teachers.local:LocalTeacher")
    register("cache", "hf_distill.cache.teacher:CacheTeacher")
    register("local", "hf_distill.serving.local:LocalTextTeacher", kind="text")
    register("endpoint", "hf_distill.serving.endpoint:EndpointTeacher", kind="text")


@hookimpl
def register_selectors(register: Register) -> None:
    """Fixed shares of the domains."""
    register("mixture", "hf_distill.data.mixture:FixedMixture")


@hookimpl
def register_generators(register: Register) -> None:
    """Text that the student writes itself."""
    register("on_policy", "hf_distill.data.on_policy:OnPolicy")


@hookimpl
def register_students(register: RegisterStudent) -> None:
    """Some of the teacher's layers, or a new model of another shape."""
    register("layer_drop", "hf_distill.students.layer_drop:layer_drop")
    register("fresh", "hf_distill.students.fresh:fresh")


@hookimpl
def register_metrics(register: Register) -> None:
    """How near the student is to the teacher, and how good by itself."""
    register("teacher_agreement", "hf_distill.metrics.agreement:TeacherAgreement")
    register("perplexity", "hf_distill.metrics.perplexity:Perplexity")
    register("calibration", "hf_distill.metrics.calibration:ExpectedCalibrationError")


@hookimpl
def register_commands(register: RegisterCommand) -> None:
    """The sub-commands of ``hf-distill``."""
    register("train", "hf_distill.cli.train:train", help="Distil as a YAML file says.")
    register(
        "capture", "hf_distill.cache.capture_command:capture", help="Keep what a teacher says of a training's data."
    )
    register("cache", "hf_distill.cache.commands:cache", help="Look into teacher caches: info, verify, compare.")
    register("demo", "hf_distill.demo.command:demo", help="Distil a tiny model on this machine, from start to report.")
    register("stages", "hf_distill.cli.stages:stages", help="Train in stages: other teachers, data, losses.")
    register("student", "hf_distill.cli.student:student", help="Students: build, list, describe their cost.")
    register("ledger", "hf_distill.serving.commands:ledger", help="Show what a teacher was asked and what that cost.")
    register("rounds", "hf_distill.rounds.commands:rounds", help="Train in rounds, on data asked for between them.")
    register("plugins", "hf_distill.cli.plugins:plugins", help="List plugins and what they add.")
    register("new_plugin", "hf_distill.cli.new_plugin:new_plugin", help="Write a plugin package to start from.")
