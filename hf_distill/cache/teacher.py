"""A teacher on the disk: what a live one said of each example, captured once, for any number of students.

    teacher: {kind: cache, path: cache/my-teacher, source: path/to/teacher, k: 32}

What is there is read; what is not is asked of the source, which is loaded when it is first needed, and kept. So the
first training fills the cache, `hf-distill capture` fills it before any training, and on a machine without the source
everything must be there. Formats and guarantees: `hf_distill.cache`.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import transformers
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..batch.reader import BatchReader
from ..batch.signals import Batch, Rows, Signal, SparseRows
from ..models.features import num_blocks
from ..models.forward import accepted_inputs
from ..teachers.base import Teacher
from ..teachers.local import LocalTeacher
from .codec import encode
from .errors import MissingExample
from .examples import CachedPlace, cut_examples, mask_of, next_tokens, put_back, take
from .fingerprints import model_fingerprint, tokenizer_fingerprints
from .manifest import Manifest
from .ordering import by_frequency
from .rows import TokenRows
from .store import CacheStore
from .truncation import Truncation
from .writer import CacheWriter

TEACHER = "teacher"
_LOGITS = "logits"


class CacheTeacher(Teacher):
    """Reads what a teacher said; asks the source for what is missing, and keeps that.

    Args:
        path: the folder of the cache; begun where there is none, which takes a source.
        source: the live teacher: a model, a folder or hub name, the options of `LocalTeacher`, or a `LocalTeacher`.
        k: log-probabilities kept for each token, of the most likely ones (see `Truncation`).
        coverage: keep fewer where these already have this share of the probability.
        draws: keep what so many draws from the distribution hit, instead of the most likely.
        taps: hidden states to keep beside predictions, as ``hidden.<i>``, in float16.
        predictions: whether predictions are kept at all.
        tail: "spread", the mass of what was not kept is shared equally by all of it; or "none", the teacher is
            normalised over what was kept, as most caches do, which teaches that all else is impossible.
        fingerprint: of the teacher that it must be, as ``hf-distill cache info`` shows it; None for any.

    Raises:
        ValueError: the cache is of another teacher, tokenizer or format, or there is neither cache nor source.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        source: PreTrainedModel | LocalTeacher | Mapping[str, Any] | str | None = None,
        k: int = 32,
        coverage: float | None = None,
        draws: int | None = None,
        taps: Sequence[str] = (),
        predictions: bool = True,
        tail: str = "spread",
        fingerprint: str | None = None,
    ) -> None:
        if tail not in ("spread", "none"):
            raise ValueError(f'tail is {tail!r}; expected "spread" or "none".')
        if other := [name for name in taps if not name.startswith(("hidden.", "encoder.hidden.", "decoder.hidden."))]:
            raise ValueError(f"A cache keeps hidden states alone, not {', '.join(other)}; expected hidden.<i>.")
        self.path = Path(path)
        self.tail = tail
        self.keep = Truncation(k=k, coverage=coverage, draws=draws)
        self.kept_taps, self.predictions = tuple(taps), predictions
        self._source_spec = source
        self._source: LocalTeacher | None = None
        self._accelerator: Accelerator | None = None
        self._writer: CacheWriter | None = None
        self._store: CacheStore | None = None
        self._order: Any = None
        self._rows, self._taps = False, tuple[str, ...]()
        if (self.path / "manifest.json").is_file():
            self._open(fingerprint)
        elif source is None:
            raise ValueError(f"{self.path} holds no teacher cache, and there is no source to fill it from.")
        else:
            self._begin()
        self.name = f"{self.path} (cache)"

    # ---- What it is of ----

    @property
    def has_source(self) -> bool:
        """Whether there is somebody to ask for what is missing."""
        return self._source_spec is not None

    @property
    def store(self) -> CacheStore | None:
        """What is on the disk, for reading; None where nothing is yet."""
        return self._store

    def _begin(self) -> None:
        """Load the source, whose fingerprint a new cache needs."""
        source = self._load_source()
        self.manifest = self._manifest_of(source)
        self.tokenizer, self.vocab_size = source.tokenizer, source.vocab_size
        self.model = _skeleton(_config_of(source.model)) if isinstance(source.model, PreTrainedModel) else None

    def _open(self, fingerprint: str | None) -> None:
        self._store = CacheStore(self.path, fingerprints={} if fingerprint is None else {TEACHER: fingerprint})
        self.manifest = self._store.manifest
        folder = self.path / TEACHER
        self.tokenizer = AutoTokenizer.from_pretrained(folder) if (folder / "tokenizer_config.json").is_file() else None
        self.model = _skeleton(AutoConfig.from_pretrained(folder)) if (folder / "config.json").is_file() else None
        self.vocab_size = self.manifest.settings["vocab_size"]
        begun = {name: self.manifest.settings[name] for name in vars(self.keep) if name in self.manifest.settings}
        if self.has_source and begun and begun != vars(self.keep):
            raise ValueError(
                f"The teacher cache {self.path} was begun with {begun}; what is added to it cannot be kept with "
                f"{vars(self.keep)}. Give it the same options, or another path."
            )

    def _load_source(self) -> LocalTeacher:
        if self._source is None:
            spec = self._source_spec
            if isinstance(spec, LocalTeacher):
                self._source = spec
            else:
                self._source = LocalTeacher(**spec) if isinstance(spec, Mapping) else LocalTeacher(spec)  # type: ignore[arg-type]
            if self._accelerator is not None:
                self._source.prepare(self._accelerator)
            if self._store is not None:  # another teacher's answers must not be added to this one's
                self._store.manifest.check(self._manifest_of(self._source).fingerprints, self.path)
        return self._source

    def _manifest_of(self, source: LocalTeacher) -> Manifest:
        fingerprints = {TEACHER: model_fingerprint(source.model)}
        if source.tokenizer is not None:
            fingerprints |= tokenizer_fingerprints(source.tokenizer)
        width = source.vocab_size if self.predictions else None
        # Whether there is a vocabulary; the head itself is out of reach where a device map has placed the teacher.
        sparse = width is not None and getattr(source.model, "get_output_embeddings", lambda: None)() is not None
        arrays = {self._canonical(name, source.model): "float16" for name in self.kept_taps}
        if width is not None and not sparse:
            arrays[_LOGITS] = "float32"
        how = {"k": self.keep.k, "coverage": self.keep.coverage, "draws": self.keep.draws}
        return Manifest(
            fingerprints=fingerprints,
            vocab_size=width if sparse else None,
            k=self.keep.k if sparse else None,
            arrays=arrays,
            settings={"vocab_size": width, **(how if sparse else {})},
        )

    @staticmethod
    def _canonical(tap: str, model: nn.Module | None) -> str:
        """The name of a hidden state, counted from the start."""
        stack, _, index = tap.rpartition("hidden.")
        if int(index) >= 0 or model is None:
            return tap
        return f"{stack}hidden.{num_blocks(model, stack.rstrip('.')) + 1 + int(index)}"

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse a tokenizer that makes other token ids, or other text of conversations, than the capture's.

        Raises:
            ValueError: it does; names both fingerprints.
        """
        known = {k: v for k, v in tokenizer_fingerprints(tokenizer).items() if k in self.manifest.fingerprints}
        self.manifest.check(known, self.path)

    # ---- Teacher ----

    def weights(self) -> nn.Module | None:
        """The source's model, or where there is no source the model's shape, which is enough for a fresh student."""
        return self._load_source().model if self.has_source else self.model

    def request(self, *, rows: bool, taps: Sequence[str]) -> None:
        """See `Teacher.request`.

        Raises:
            ValueError: the cache does not hold what is asked for.
        """
        self._rows = rows
        self._taps = tuple(taps)
        there = set(self.manifest.arrays)
        if rows and self.manifest.vocab_size is None and _LOGITS not in there:
            raise ValueError(f"The teacher cache {self.path} holds no predictions, but a loss compares them.")
        if missing := [name for name in taps if self._canonical(name, self.model) not in there]:
            raise ValueError(
                f"The teacher cache {self.path} holds no {', '.join(missing)}, but {', '.join(sorted(there)) or 'none'}"
                ". Capture again with these taps, or leave the loss out."
            )

    def prepare(self, accelerator: Accelerator) -> None:
        """See `Teacher.prepare`."""
        self._accelerator = accelerator
        if self._source is not None:
            self._source.prepare(accelerator)

    def signal(self, batch: Batch) -> Signal:
        """See `Teacher.signal`.

        Raises:
            ValueError: an example is not there, and there is no source; says which.
        """
        places = self._places(batch)
        if self._source_spec is not None:
            self._fill(batch, places)
        reader = self._writer or self._store
        assert reader is not None
        try:
            found = reader.read([place.key for place in places])
        except MissingExample as error:
            raise ValueError(self._missing(places[error.index], batch)) from error
        arrays = found.arrays
        features = {name: put_back(arrays[self._canonical(name, self.model)], places, batch) for name in self._taps}
        rows: Rows | SparseRows | None = None
        if self._rows and found.rows is not None:
            rows = self._sparse(found.rows, places, batch)
        elif self._rows:
            rows = Rows(logits=put_back(arrays[_LOGITS], places, batch))
        return Signal(rows=rows, features=features)

    def _places(self, batch: Batch) -> list[CachedPlace]:
        inputs = batch.inputs if self.model is None else accepted_inputs(self.model, batch.inputs)
        if self.model is not None and BatchReader(self.model, shifted=False).one_per_example:
            # A part of a nested batch was read for a student that has positions.
            batch = replace(batch, row_mask=batch.token_mask.reshape(len(batch.token_mask), -1).any(1))
        return cut_examples(batch, inputs, self.manifest.fingerprints[TEACHER])

    # ---- Filling ----

    def order_by(self, tokens: Sequence[Sequence[int]]) -> None:
        """Make a cache that has not begun smaller, from a sample of the sequences that it will hold.

        Ids of frequent tokens then take fewer bits; about a fifth of all bytes where the vocabulary is large.
        """
        if self._store is None and self._writer is None and (width := self.manifest.vocab_size) is not None:
            self._order = by_frequency(np.bincount(np.concatenate(list(tokens)), minlength=width)[:width])

    def fill(self, batch: Batch) -> int:
        """Ask the source for the examples of a batch that are missing, on all processes; how many were new here."""
        return self._fill(batch, self._places(batch))

    def missing(self, batch: Batch) -> int:
        """How many examples of a batch are not there yet."""
        keys = {place.key for place in self._places(batch)}
        return len(keys) - int(self._known(list(keys)).sum())

    def num_bytes_of(self, batch: Batch) -> int:
        """What the examples of a batch would take, from asking the source and keeping nothing."""
        rows, lengths, arrays = self._ask(batch, self._places(batch))
        vocab_size = self.manifest.vocab_size
        ranks = None if self._order is None else np.argsort(self._order)
        coded = b"" if rows is None or vocab_size is None else b"".join(encode(rows, lengths, vocab_size, ranks))
        widths = {name: 2 if dtype.endswith("16") else 4 for name, dtype in self.manifest.arrays.items()}
        size: int = sum(widths[name] * array.size for name, parts in arrays.items() for array in parts)
        return len(coded) + size

    def close(self) -> None:
        """Write what waits to be written, and let other processes write."""
        if self._writer is not None:
            self._writer.close()
            self._writer, self._store = None, CacheStore(self.path)

    def _known(self, keys: Sequence[bytes]) -> Any:
        reader = self._writer or self._store
        return reader.contains(keys) if reader is not None else np.zeros(len(keys), dtype=bool)

    def _fill(self, batch: Batch, places: Sequence[CachedPlace]) -> int:
        known = self._known([place.key for place in places])
        if not _anywhere(not known.all(), batch.token_mask.device):
            return 0
        writer = self._open_writer()
        new = [place for place, there in zip(places, known, strict=True) if not there]
        # Where this process has nothing new it still takes part: the source may be sharded over all of them.
        wanted = sorted({place.row for place in new}) or [0]
        moved = [replace(place, row=wanted.index(place.row)) for place in new]
        rows, lengths, arrays = self._ask(batch.take(wanted), moved)
        return writer.add([place.key for place in new], rows, None if rows is None else lengths, arrays) if new else 0

    def _ask(
        self, batch: Batch, places: Sequence[CachedPlace]
    ) -> tuple[TokenRows | None, list[int], dict[str, list[Any]]]:
        """What is to be kept of the source's answer: token rows with the lengths of examples, and arrays by name."""
        source = self._load_source()
        source.request(rows=self.predictions, taps=self.kept_taps)
        signal = source.signal(batch)
        arrays = {self._canonical(name, self.model): signal.features[name] for name in self.kept_taps}
        rows = None
        if isinstance(signal.rows, Rows) and self.manifest.vocab_size is not None:
            mask, seed = mask_of(places, batch), int.from_bytes(places[0].key[:4], "big") if places else 0
            rows = self.keep(signal.rows.select(mask), next_tokens(batch)[mask], seed=seed)
        elif isinstance(signal.rows, Rows):
            arrays[_LOGITS] = signal.rows.tensor
        stored = {name: [take(values, place) for place in places] for name, values in arrays.items()}
        return rows, [len(place.positions) for place in places], stored

    def _open_writer(self) -> CacheWriter:
        if self._writer is None:
            accelerator = self._accelerator
            rank = accelerator.process_index if accelerator is not None else 0
            session = [np.random.SeedSequence().entropy]
            if accelerator is not None and accelerator.num_processes > 1:
                broadcast_object_list(session)
            if rank == 0:
                self._save_about()  # first: where there is a manifest, this is there, too
            name = f"{session[0]:x}"
            self._writer = CacheWriter(self.path, self.manifest, order=self._order, rank=rank, session=name)
        return self._writer

    def _save_about(self) -> None:
        """Configuration and tokenizer beside the numbers, so that the source need not be there to read them."""
        source, folder, unfinished = self._load_source(), self.path / TEACHER, self.path / f"{TEACHER}-unfinished"
        if folder.is_dir():
            return
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        if isinstance(source.model, PreTrainedModel):
            _config_of(source.model).save_pretrained(unfinished)
        if source.tokenizer is not None:
            source.tokenizer.save_pretrained(unfinished)
        unfinished.rename(folder)

    # ---- Reading ----

    def _sparse(self, rows: TokenRows, places: Sequence[CachedPlace], batch: Batch) -> SparseRows:
        mask = mask_of(places, batch)
        vocab_size = self.manifest.vocab_size
        assert vocab_size is not None

        def spread_out(array: Any, filler: float) -> Tensor:
            values: Tensor = torch.from_numpy(np.ascontiguousarray(array)).to(mask.device)
            whole = values.new_full((*mask.shape, *values.shape[1:]), filler)
            whole[mask] = values
            return whole

        tail = rows.tail if self.tail == "spread" else np.full_like(rows.tail, -np.inf)
        return SparseRows(
            ids=spread_out(rows.ids, vocab_size),
            log_probs=spread_out(rows.log_probs, -torch.inf),
            tail=spread_out(tail, 0.0),
            vocab_size=vocab_size,
            next_log_probs=spread_out(rows.target, 0.0),
            entropy=spread_out(rows.entropy, 0.0),
        )

    def _missing(self, place: CachedPlace, batch: Batch) -> str:
        names = [f"{name} {batch.extras[name][place.row]}" for name in batch.extras]
        ids = batch.inputs.get("input_ids")
        text = ""
        if ids is not None and self.tokenizer is not None:
            start = ids[place.row].tolist()
            start = [start[i] for i in place.positions.tolist()] if len(place.positions) else start
            text = f", which begins {self.tokenizer.decode(start[:16])!r}"
        about = f" ({', '.join(names)})" if names else ""
        return (
            f"The teacher cache {self.path} ({len(self._store or ())} examples) holds nothing of example {place.row} "
            f"of this batch{about}{text}. Capture the same data with the same max_length and tokenizer "
            "(`hf-distill capture`), or give the cache a source."
        )


def _config_of(model: PreTrainedModel) -> Any:
    """Its configuration, with the class that a model made in the process does not note."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    return config


def _skeleton(config: Any) -> nn.Module | None:
    """The model without its numbers, for losses that look at layers and widths."""
    name = (getattr(config, "architectures", None) or [""])[0]
    if not hasattr(transformers, name):
        return None
    with torch.device("meta"):
        model: nn.Module = getattr(transformers, name)(config)
    return model.requires_grad_(False).eval()


def _anywhere(here: bool, device: torch.device) -> bool:
    """Whether it is so on any process; a sharded source runs on all or on none."""
    if not (dist.is_available() and dist.is_initialized()):
        return here
    flag = torch.tensor(int(here), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())
