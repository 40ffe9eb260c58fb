"""The documentation site is made of every page, and each of its links leads somewhere."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import docs_site

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    docs_site.collect(folder)
    return folder


def names(entries: list[object]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, dict):
            for below in entry.values():
                yield from names(below)
        else:
            yield str(entry)


def test_the_navigation_has_every_page_but_the_decisions(site: Path) -> None:
    navigation = list(names(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.md")}
    assert len(navigation) == len(set(navigation))
    assert set(navigation) == {page for page in pages if not page.startswith("decisions/")}


def test_a_link_within_the_site_names_a_page_and_any_other_one_the_repository(site: Path) -> None:
    found = 0
    for path in site.rglob("*.md"):
        for match in docs_site.LINK.finditer(path.read_text()):
            found += 1
            assert (path.parent / match[1]).exists(), f"{path.relative_to(site)}: {match[1]}"
    assert found > 50


def test_a_link_to_a_missing_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs_site, "ROOT", tmp_path)
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("see [the other one](other.md)")
    with pytest.raises(ValueError, match=r"docs/page\.md links to other\.md, which does not exist"):
        docs_site.page(page, Path("page.md"))


def test_llms_txt_lists_every_page_with_its_title(site: Path) -> None:
    text = (site / "llms.txt").read_text()
    assert text.startswith("# pgonce\n\n> ")
    assert "- [Webhooks](webhooks.md)" in text
    for path in site.rglob("*.md"):
        assert f"]({path.relative_to(site).as_posix()})" in text
