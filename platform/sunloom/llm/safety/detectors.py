"""Detectors of access keys and personal data in a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from sunloom.config.llm_judges import Detector

_KEY = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[0-9A-Za-z_-]{35}\b|\bglpat-[A-Za-z0-9_-]{20,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    # A name that says secret, and a value with a digit: words alone are prose.
    r"|(?i:\b(?:api[_ -]?key|secret|access[_ -]?token|token|password|passwd)\b"
    r"[\"']?\s*(?::|=|\bis\b)\s*[\"'`]?(?=\S*\d)[^\s\"'`,;]{8,})"
)
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}\b")
_PHONE = re.compile(
    # International; a national number with its trunk zero; North American.
    r"(?<![\w+])(?:\+|00)[1-9]\d{0,2}(?:[ ./-]?\(?\d{1,5}\)?){2,5}(?!\w)"
    r"|(?<![\w+.-])\(?0\d{1,5}\)?[ /-]\d{2,5}(?:[ -]?\d{2,5}){1,3}(?![\w-])"
    r"|(?<![\w+.-])(?:1[ .-])?\(?[2-9]\d{2}\)?[ .-]\d{3}[ .-]\d{4}(?![\w-])"
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}")
_CARD = re.compile(r"(?<![\w.-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![\w-])")
# Of the countries that most numbers are from; of others every length is tried.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI NL", 19: "SI", 20: "AT EE LT", 21: "CH HR LI LV",
        22: "BG DE GB IE", 23: "IL", 24: "CZ ES RO SA SE SK", 25: "PT", 26: "IS TR",
        27: "FR GR IT MC", 28: "CY HU PL", 31: "MT",
    }.items()
    for country in countries.split()
}  # fmt: skip
_IBAN_SPAN = range(34, 14, -1)


def find_personal_data(
    text: str, kinds: Sequence[Detector], known: str = ""
) -> list[tuple[Detector, str]]:
    """Kind and passage of what detectors find.

    Args:
        text: To search.
        kinds: Names of detectors.
        known: What may be repeated, such as what the user wrote.
    """
    allowed = _bare(known)
    return [
        (kind, passage)
        for kind in kinds
        for passage in DETECTORS[kind](text)
        if _bare(passage) not in allowed
    ]


def contains_secret(text: str, secret: str) -> bool:
    """Whether a secret stands in a text, however it is spaced, cased or joined by dashes."""
    return _bare(secret) in _bare(text)


def _bare(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def is_iban(number: str) -> bool:
    """Whether letters and digits without blanks have the length and the checksum of an IBAN."""
    if _IBAN_LENGTHS.get(number[:2], len(number)) != len(number):
        return False
    return int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1


def is_card(digits: str) -> bool:
    """Whether digits have the checksum of Luhn, and are not all alike."""
    doubled = [int(d) * (1 + place % 2) for place, d in enumerate(reversed(digits))]
    return len({*digits}) > 1 and sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0


def _find_by(pattern: re.Pattern[str]) -> Callable[[str], Iterator[str]]:
    return lambda text: (match.group().strip() for match in pattern.finditer(text))


def _find_phones(text: str) -> Iterator[str]:
    for match in _PHONE.finditer(text):
        # E.164 has at most 15 digits.
        if 8 <= sum(c.isdigit() for c in match.group()) <= 15 and not is_date(match.group()):
            yield match.group().strip()


def is_date(text: str) -> bool:
    """Whether a text is a date of digits, such as 01-12-2026."""
    return re.fullmatch(r"\d{1,4}([-/. ])\d{1,2}\1\d{1,4}", text.strip()) is not None


def _find_ibans(text: str) -> Iterator[str]:
    for match in _IBAN.finditer(text):
        compact = match.group().replace(" ", "")
        # A word in capitals may follow.
        length = next((n for n in _IBAN_SPAN if n <= len(compact) and is_iban(compact[:n])), None)
        if length is not None:
            yield compact[:length]


def _find_cards(text: str) -> Iterator[str]:
    for match in _CARD.finditer(text):
        if is_card(re.sub(r"\D", "", match.group())):
            yield match.group()


DETECTORS: Mapping[Detector, Callable[[str], Iterator[str]]] = {
    "key": _find_by(_KEY),
    "email": _find_by(_EMAIL),
    "phone": _find_phones,
    "iban": _find_ibans,
    "card": _find_cards,
}
"""Each finds the passages of its kind."""
