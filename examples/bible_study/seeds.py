"""The imports of the application, one per source. A source yields its rows in order, each with the cursor after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import pgonce
from examples.bible_study import catechism as standards
from examples.bible_study import commentary, lexicon, texts, treasury
from examples.bible_study import geography as locations

Cursor: TypeAlias = dict[str, Any]
Rows: TypeAlias = Iterator[tuple[dict[str, Any], Cursor]]


def web_kjv_chapters(cursor: Cursor | None) -> Rows:
    """Both texts, chapter by chapter: the verses of a chapter share its cursor."""
    return _rows(texts.verses, cursor)


def strongs_lexicon(cursor: Cursor | None) -> Rows:
    """The words of the Hebrew and Greek Bible by Strong's number. H2200 occurs twice, so one row is skipped."""
    return _rows(lexicon.words, cursor)


def spurgeon_index(cursor: Cursor | None) -> Rows:
    """The Treasury of David, psalm by psalm; Psalm 119 is one row of 1.4 million characters."""
    return _rows(treasury.texts, cursor)


def commentary_entries(cursor: Cursor | None) -> Rows:
    """Matthew Henry's commentary and Scofield's notes."""
    return _rows(commentary.notes, cursor)


def geography(cursor: Cursor | None) -> Rows:
    """The places of the Bible, with coordinates."""
    return _rows(locations.places, cursor)


def catechism(cursor: Cursor | None) -> Rows:
    """The Westminster Confession and both catechisms."""
    return _rows(standards.articles, cursor)


def register(app: pgonce.App) -> None:
    """Register all seeds, in the order in which they are to run."""
    for function, into, key, total in (
        (web_kjv_chapters, "bible_verses", ("version", "book", "chapter", "verse"), texts.TOTAL_VERSES),
        (strongs_lexicon, "strongs_lexicon", ("strongs_number",), lexicon.TOTAL),
        (spurgeon_index, "spurgeon_index", ("psalm",), treasury.TOTAL),
        (commentary_entries, "commentary_entries", ("row_id",), commentary.TOTAL),
        (geography, "geography", ("place_id",), locations.TOTAL),
        (catechism, "catechism", ("document", "ref"), standards.TOTAL),
    ):
        app.seed(function.__name__, into=into, key=key, total=total)(function)


def _rows(source: Callable[[Cursor | None], Iterable[Any]], cursor: Cursor | None) -> Rows:
    """The rows of a source as mappings. A missing source or a wrong cursor is reported in one line."""
    try:
        found = source(cursor)
    except (ImportError, ValueError) as error:
        raise pgonce.PgonceError(str(error)) from error
    return ((row._asdict(), row.cursor) for row in found)
