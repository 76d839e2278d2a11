"""Arguments of tiny trainings."""

import pytest
import transformers

from hf_distill import DistillationArguments

transformers.logging.disable_progress_bar()


@pytest.fixture
def trainer_arguments():
    def make(folder, **options):
        defaults = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "per_device_train_batch_size": 4}
        return DistillationArguments(output_dir=str(folder), **{**defaults, **options})

    return make
