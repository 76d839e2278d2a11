"""The bytes that each token of a tokenizer stands for, read from its vocabulary once.

Known are byte-level BPE (GPT-2, Llama 3, Qwen), SentencePiece with or without byte fallback (Llama 2, Mistral, Gemma),
WordPiece (BERT) and whole words.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")
_SPACE = "\u2581"


class TokenBytes:
    """What each token id spells.

    Args:
        tokenizer: a fast one.

    Attributes:
        special_ids: tokens that spell nothing: of the beginning, the end, padding, roles in conversations.
        adds_space: whether a space that is not in the text is put before it, as SentencePiece does.
        spells: whether tokens, one after the other, give the text again; WordPiece and whole words lose spaces, and
            sometimes case and accents.

    Raises:
        ValueError: a tokenizer that is not fast, or of another kind.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        if not tokenizer.is_fast:
            raise ValueError(f"{name} is no fast tokenizer, so that its vocabulary cannot be read. Load a fast one.")
        description = json.loads(tokenizer.backend_tokenizer.to_str())
        model = description["model"]
        around = str([description[part] for part in ("normalizer", "pre_tokenizer", "decoder")])
        prefix = model.get("continuing_subword_prefix") or ""
        added = tokenizer.added_tokens_decoder
        literal = {token_id: token.content for token_id, token in added.items() if not token.special}
        self.special_ids = frozenset(tokenizer.all_special_ids) | (added.keys() - literal.keys())
        self.spells = True
        if "ByteLevel" in around:
            spell = _byte_level
        elif "Metaspace" in around or _SPACE in around:
            spell = _sentence_piece
        elif model["type"] in ("WordPiece", "WordLevel"):
            spell = functools.partial(_word, prefix=prefix)
            self.spells = False
        else:
            raise ValueError(
                f"The tokenizer {name} is of a kind ({model['type']}) whose tokens do not say which bytes they stand "
                "for; expected byte-level BPE, SentencePiece, WordPiece or whole words."
            )
        self._table = {
            token_id: literal[token_id].encode() if token_id in literal else spell(token)
            for token, token_id in tokenizer.get_vocab().items()
            if token_id not in self.special_ids
        }
        first = tokenizer("a", add_special_tokens=False)["input_ids"]
        self.adds_space = not self.spells or self._table.get(first[0], b"").startswith(b" ")

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token; none for special tokens and ids beyond the vocabulary.

        Where the tokenizer adds a space before a text, the first token loses it again.
        """
        pieces = [self._table.get(token_id, b"") for token_id in ids]
        if self.adds_space:
            opening = next((index for index, piece in enumerate(pieces) if piece), None)
            if opening is not None:
                pieces[opening] = pieces[opening].removeprefix(b" ")
        return pieces


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level BPE: printable Latin-1 stands for itself, all else for 256 and up, in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _byte_level(token: str) -> bytes:
    alphabet = _byte_of_character()
    return bytes(alphabet[character] for character in token)


def _sentence_piece(token: str) -> bytes:
    if match := _BYTE.match(token):
        return bytes([int(match[1], 16)])
    return token.replace(_SPACE, " ").encode()


def _word(token: str, prefix: str) -> bytes:
    return token.removeprefix(prefix).encode() if prefix and token.startswith(prefix) else b" " + token.encode()
