"""Byte-level BPE from a table of pieces: ids of the tokenizers library in a fraction of its time.

Such a tokenizer cuts a text at its added tokens, cuts the rest into pieces by regular expressions,
and merges bytes within each piece. Pieces recur, as words do, so their ids are looked up. A text
with characters on which two engines of regular expressions could differ, and one whose answers
begin inside a piece, is left to the library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import regex

# Of GPT-2, which the pre-tokenizer ByteLevel brings.
_GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_ASCII = re.compile(r"[\t\n\r -~]*")
# Letters and marks that every version of Unicode has in one class, composed, without a second case.
_STABLE = re.compile(r"[\t\n\r -~\u00a0-\u017e\u0410-\u044f\u2010-\u2026\u20ac]*")
_IN_ASCII = {
    "L": "A-Za-z",
    "Lu": "A-Z",
    "Ll": "a-z",
    "Lt": "",
    "Lm": "",
    "Lo": "",
    "M": "",
    "N": "0-9",
}
_MOST_PIECES = 500_000

Cut = Callable[[str], list[str]]
_known: WeakKeyDictionary[Any, tuple[int, PieceTokenizer | None]] = WeakKeyDictionary()


def find_pieces(tokenizer: Any) -> PieceTokenizer | None:
    """The table of a tokenizer in this process; None for one of another kind.

    Args:
        tokenizer: A fast tokenizer of transformers.
    """
    # One that has got further tokens since is another one.
    known = _known.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        known = len(tokenizer), build_pieces(tokenizer.backend_tokenizer)
        _known[tokenizer] = known
    return known[1]


def build_pieces(backend: Any) -> PieceTokenizer | None:
    """The table of a ``tokenizers.Tokenizer``; None for one of another kind."""
    plain = json.loads(backend.to_str())
    added, model = plain["added_tokens"], plain["model"]
    normalizer = (plain["normalizer"] or {}).get("type")
    if model["type"] != "BPE" or model.get("dropout") or normalizer not in (None, "NFC"):
        return None
    if any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in added):
        return None
    # Those of a kind are looked for first.
    if len({token["normalized"] for token in added}) > 1:
        return None
    patterns = _patterns_of(plain["pre_tokenizer"])
    stages = [_compile(pattern) for pattern in patterns or ()]
    if not stages or None in stages:
        return None
    ids = {token["content"]: token["id"] for token in added}
    return PieceTokenizer(backend.model, ids, [stage for stage in stages if stage])


def _patterns_of(pre_tokenizer: dict[str, Any] | None) -> list[str] | None:
    """Regular expressions that cut one after another; None for what these cannot say."""
    if pre_tokenizer is None:
        return None
    parts = (
        pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    )
    found: list[str] = []
    for part in parts:
        if part["type"] == "ByteLevel" and part is parts[-1] and not part["add_prefix_space"]:
            found += [_GPT2] if part["use_regex"] else []
            return found
        if part["type"] == "Digits":
            found.append(r"\p{N}|[^\p{N}]+" if part["individual_digits"] else r"\p{N}+|[^\p{N}]+")
        elif (
            part["type"] == "Split"
            and part["behavior"] == "Isolated"
            and not part["invert"]
            and "Regex" in part["pattern"]
        ):
            found.append(part["pattern"]["Regex"])
        else:
            return None
    return None


def _compile(pattern: str) -> tuple[Cut, Cut] | None:
    """Cuts of an ASCII text and of another one."""
    ascii_pattern = _write_for_ascii(pattern)
    if ascii_pattern is None:
        return None
    try:
        in_ascii, in_any = re.compile(ascii_pattern, re.ASCII), regex.compile(pattern)
    except (re.error, regex.error):
        return None
    if in_ascii.groups:
        return None
    return in_ascii.findall, in_any.findall


def _write_for_ascii(pattern: str) -> str | None:
    """An expression without classes of Unicode; None where one is unknown."""
    written, is_class = [], False
    for part in re.findall(r"\\[pP]\{\w+\}|\\.|.", pattern, re.DOTALL):
        if part.startswith(("\\p{", "\\P{")):
            own = _IN_ASCII.get(part[3:-1])
            if own is None or part[1] == "P":
                return None
            written.append(own if is_class else f"[{own}]" if own else "(?!)")
            continue
        is_class = part == "[" or (is_class and part != "]")
        written.append(part)
    return "".join(written)


class _Pieces(dict[str, tuple[int, ...]]):
    """Ids by piece."""

    def __init__(self, model: Any) -> None:
        from tokenizers.pre_tokenizers import ByteLevel

        self._model = model
        self._bytes = ByteLevel(add_prefix_space=False, use_regex=False)

    def __missing__(self, piece: str) -> tuple[int, ...]:
        [(written, _)] = self._bytes.pre_tokenize_str(piece)
        ids = tuple(token.id for token in self._model.tokenize(written))
        if len(self) < _MOST_PIECES:
            self[piece] = ids
        return ids


class PieceTokenizer:
    """Ids of texts by a table of their pieces.

    Args:
        model: The BPE model of the tokenizer.
        added: Ids of the added tokens.
        stages: Cuts of an ASCII text and of another one, one after another.
    """

    def __init__(
        self, model: Any, added: dict[str, int], stages: Sequence[tuple[Cut, Cut]]
    ) -> None:
        self._pieces = _Pieces(model)
        self._added = added
        longest_first = sorted(added, key=len, reverse=True)
        either = "|".join(map(re.escape, longest_first)) or "(?!)"
        self._cut_added = re.compile(f"({either})").split
        self._stages = stages

    def encode(self, text: str, places: Sequence[int]) -> tuple[list[int], list[int]] | None:
        """A text's ids, and for each of some characters the index of the first token from there.

        Args:
            text: Whole.
            places: Numbers of characters, ascending.

        Returns:
            None where the tokenizers library must be asked.
        """
        if _ASCII.fullmatch(text):
            which = 0
        elif _STABLE.fullmatch(text):
            which = 1
        else:
            return None
        ids: list[int] = []
        found: list[int] = []
        position, ahead = 0, [*places, len(text) + 1]
        for number, part in enumerate(self._cut_added(text)):
            while ahead[len(found)] <= position:
                found.append(len(ids))
            end = position + len(part)
            if number % 2:
                ids.append(self._added[part])
            elif part:
                pieces = [part]
                for stage in self._stages:
                    pieces = [*chain.from_iterable(map(stage[which], pieces))]
                done = 0
                while ahead[len(found)] < end and done < len(pieces):
                    while ahead[len(found)] <= position:
                        found.append(len(ids))
                    piece = pieces[done]
                    ids += self._pieces[piece]
                    position += len(piece)
                    done += 1
                    if position > ahead[len(found)] > position - len(piece):
                        return None
                rest = pieces[done:] if done else pieces
                ids += chain.from_iterable(map(self._pieces.__getitem__, rest))
                position += sum(map(len, rest))
                # What an expression does not match is a piece, too.
                if position != end:
                    return None
            position = end
        return ids, found + [len(ids)] * (len(places) - len(found))
