"""What of a batch is one example to a cache, and the key that it is kept under.

An example is a sequence without its padding, whatever batch, order or epoch it comes in; of packed sequences, whose
positions begin again at zero, each one. Its key is a hash of the teacher and of all that the teacher sees of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch.signals import Batch

KEY_BYTES = 16
_MASKS = ("attention_mask", "decoder_attention_mask", "position_ids")


@dataclass(frozen=True)
class CachedPlace:
    """Where one example stands in a batch.

    Attributes:
        key: 16 bytes.
        row: its row of the batch.
        positions: of its tokens in that row, int64 ``[n]``; empty for one prediction an example.
    """

    key: bytes
    row: int
    positions: NDArray[np.int64]


def cut_examples(batch: Batch, inputs: Mapping[str, Any], teacher: str) -> list[CachedPlace]:
    """The examples of a batch, in order; rows that only fill it up are left out.

    Args:
        batch: as losses see it.
        inputs: those of its inputs that the teacher takes.
        teacher: the fingerprint of who answers, part of every key.
    """
    tensors = {k: v.detach().cpu().numpy() for k, v in inputs.items() if isinstance(v, Tensor)}
    by_position = batch.row_mask.dim() == 2
    token_mask = batch.token_mask.cpu().numpy()
    places = []
    for row in range(len(token_mask)):
        if not token_mask[row].any():
            continue
        for positions in _sequences(token_mask[row], tensors, row) if by_position else [_NOTHING]:
            key = _key(teacher, tensors, row, positions, token_mask.shape[-1])
            places.append(CachedPlace(key, row, positions))
    return places


def next_tokens(batch: Batch) -> Tensor:
    """The token that follows each position in its sequence, ``[B, S]``; -1 after the last one and in padding."""
    ids = batch.inputs["decoder_input_ids" if "decoder_input_ids" in batch.inputs else "input_ids"]
    following = torch.nn.functional.pad(ids, (0, 1), value=-1)[:, 1:]
    there = torch.nn.functional.pad(batch.token_mask, (0, 1))[:, 1:] & batch.token_mask
    if (positions := batch.inputs.get("position_ids")) is not None:
        there = there & (torch.nn.functional.pad(positions, (0, 1)).expand(len(ids), -1)[:, 1:] != 0)
    return following.masked_fill(~there, -1)


_NOTHING: NDArray[np.int64] = np.zeros(0, dtype=np.int64)


def _sequences(mask: NDArray[np.bool_], tensors: Mapping[str, NDArray[Any]], row: int) -> Iterator[NDArray[np.int64]]:
    """Positions of each sequence in a row: what is not padding, cut where positions begin again."""
    there = np.flatnonzero(mask)
    if "position_ids" not in tensors:
        yield there
        return
    own = tensors["position_ids"][min(row, len(tensors["position_ids"]) - 1)][there]
    yield from np.split(there, np.flatnonzero(own[1:] == 0) + 1)


def _key(
    teacher: str, tensors: Mapping[str, NDArray[Any]], row: int, positions: NDArray[np.int64], width: int
) -> bytes:
    digest = hashlib.blake2b(teacher.encode(), digest_size=KEY_BYTES)
    two_stacks = "decoder_input_ids" in tensors
    for name in sorted(tensors.keys() - set(_MASKS)):
        values = tensors[name][row]
        in_encoder = two_stacks and not name.startswith("decoder_")
        mask = tensors.get("attention_mask")
        if len(positions) and not in_encoder and values.shape[:1] == (width,):
            values = values[positions]
        elif mask is not None and values.shape[:1] == mask[row].shape:
            values = values[mask[row].astype(bool)]
        if np.issubdtype(values.dtype, np.integer):
            values = values.astype(np.int64)  # collators differ in it
        digest.update(f"{name}{values.shape}{values.dtype}".encode() + np.ascontiguousarray(values).tobytes())
    return digest.digest()


def mask_of(places: Sequence[CachedPlace], batch: Batch) -> Tensor:
    """True at the positions of these examples, ``[B, S]``; they follow one another in it as the examples do."""
    mask = np.zeros(batch.row_mask.shape, dtype=bool)
    for place in places:
        mask[place.row, place.positions] = True
    return torch.from_numpy(mask).to(batch.row_mask.device)


def take(values: Tensor, place: CachedPlace) -> NDArray[np.float32]:
    """One example's part of ``[B, ...]``, or of ``[B, S, ...]`` where it has positions."""
    own = values[place.row].float().cpu().numpy()
    return own[place.positions] if len(place.positions) else own


def put_back(arrays: Sequence[NDArray[Any]], places: Sequence[CachedPlace], batch: Batch) -> Tensor:
    """The reverse of `take` for a whole batch, in float32; zeros elsewhere."""
    by_position = bool(places) and len(places[0].positions) > 0
    shape = batch.token_mask.shape if by_position else batch.token_mask.shape[:1]
    whole = np.zeros((*shape, *arrays[0].shape[int(by_position) :]), dtype=np.float32)
    for place, array in zip(places, arrays, strict=True):
        whole[(place.row, place.positions) if by_position else place.row] = array
    return torch.from_numpy(whole).to(batch.token_mask.device)
