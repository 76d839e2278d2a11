"""Teachers that write text: endpoints, local models, and what plugins add. They make data, not signals of a batch.

teacher = make_text_teacher({"kind": "endpoint", "url": "http://127.0.0.1:8000/v1", "model": "m"}, ledger=ledger)
answers = teacher.generate(["Write a question about lost cards."], seed=0, purpose="round 1")
"""

from __future__ import annotations
