"""Strong's Hebrew and Greek dictionaries, as the seed `strongs_lexicon` reads them.

From Debian's `sword-dict-strongs-hebrew` (H1 to H8674; H2200 occurs twice with the same text) and
`sword-dict-strongs-greek` (G1 to G5624, of which 101 are "Not Used": G2717 and G3203 to G3302).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from examples.bible_study.sword import Dictionary, plain

# letter of the number, language, module, Debian package, highest number; in the order in which they are read
MODULES = (
    ("H", "Hebrew", "strongshebrew", "sword-dict-strongs-hebrew", 8_674),
    ("G", "Greek", "strongsgreek", "sword-dict-strongs-greek", 5_624),
)
TOTAL = 8_675 + 5_523

_WORD = re.compile(r"<orth>(.*?)</orth>", re.DOTALL)
_TRANSLITERATION = re.compile(r'<orth rend="bold" type="trans">(.*?)</orth>', re.DOTALL)
_PRONUNCIATION = re.compile(r"<pron\b[^>]*>(.*?)</pron>", re.DOTALL)
_DEFINITION = re.compile(r"<def>(.*)</def>", re.DOTALL)
_NUMBER = re.compile(r"([HG])([1-9]\d{0,3})")


class Word(NamedTuple):
    """One entry; the fields are the columns of `strongs_lexicon`."""

    strongs_number: str
    language: str
    number: int
    lemma: str
    transliteration: str
    pronunciation: str
    definition: str

    @property
    def cursor(self) -> dict[str, str]:
        """The checkpoint "this number is done", in the specification's shape."""
        return {"last_strongs_number": self.strongs_number}


def words(after: Mapping[str, Any] | None = None) -> Iterator[Word]:
    """All entries after a cursor, H1 to H8674 and then G1 to G5624; None starts at H1.

    Numbers are compared as numbers: H10 is after H2 (as text it would be before, and a resume at H2 would
    skip H10 to H19). H2200 is yielded twice, and the import counts the second one as skipped.

    Raises `NotInstalled` if a dictionary is missing and `ValueError` if the cursor is not a Strong's number. Both are
    raised by the call itself.
    """
    letter, number = _start(after)
    first = [module[0] for module in MODULES].index(letter)
    open_ = [(module, Dictionary(module[2], module[3])) for module in MODULES[first:]]
    return _words(open_, number)


def _words(modules: list[tuple[tuple[str, str, str, str, int], Dictionary]], after: int) -> Iterator[Word]:
    for (letter, language, *_), dictionary in modules:
        for number, markup in dictionary.after(after):
            if "<orth" in markup:  # an entry without a word is "Not Used"
                parts = (_part(part, markup) for part in (_WORD, _TRANSLITERATION, _PRONUNCIATION, _DEFINITION))
                yield Word(f"{letter}{number}", language, number, *parts)
        after = 0


def _part(part: re.Pattern[str], markup: str) -> str:
    # a Greek entry may have a second spelling, with its own definition: "Α … ἄν"
    return " ".join(plain(" ".join(part.findall(markup))).split())


def _start(after: object) -> tuple[str, int]:
    if after is None or after == {}:
        return "H", 0
    said = after.get("last_strongs_number") if isinstance(after, Mapping) else None
    match = _NUMBER.fullmatch(said) if isinstance(said, str) else None
    if match:
        letter, number = match[1], int(match[2])
        if number <= next(module[4] for module in MODULES if module[0] == letter):
            return letter, number
    raise ValueError(f"no Strong's number: {after!r}; a cursor looks like {{'last_strongs_number': 'H3068'}}")
