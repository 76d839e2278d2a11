"""The experiments of `benchmarks/methods.py`: a file per method, named after it, that sets ``EXPERIMENT``.

`frame` says what an experiment is; `language_models`, `classifiers` and `images` hold the small students, teachers and
data that experiments share. All run on one core.

    EXPERIMENT = Experiment(
        method="TAID",
        package="hf-distill-lm",
        components=("loss taid",),
        paper="Shing et al. 2025, arXiv:2501.16937",
        evidence="faithful",
        what="The teacher of the loss starts near the student and moves to the real teacher. ...",
        needs="A teacher of the same vocabulary.",
        expects="Nearer to the teacher than forward KL.",
        metric="forward_kl",
        unit="nats a token",
        better="lower",
        baseline="forward KL",
        arm="TAID",
        arms={
            "forward KL": lambda seed: distil_lm(["forward_kl"], seed=seed),
            "TAID": lambda seed: distil_lm(["taid"], seed=seed, plugins=["lm"]),
        },
        data=("stories260k", "tinystories_sample"),
    )
"""
