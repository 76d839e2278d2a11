"""``python -m hf_distill.cli``: the `hf-distill` command for launchers that start modules (accelerate, torchrun)."""

from __future__ import annotations

import sys

from .main import main

sys.exit(main())
