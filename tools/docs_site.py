"""Collects the pages of the documentation site from the plain Markdown of the checkout, for Zensical.

    python tools/docs_site.py DIRECTORY

The pages are read on the repository's site as they are. For this one, README.md and CONTRIBUTING.md become pages, and a
link that leaves docs/ becomes one to the repository. The directory also gets llms.txt: the list of pages, for programs.
"""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Pages of the site that are not in docs/.
ELSEWHERE = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "packages/typescript/README.md": "typescript.md",
}
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)]*)?\)")


def repository() -> str:
    """The address that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Repository"])


def page(source: Path, target: Path) -> str:
    """The text of a page whose links fit its place in the site.

    Raises:
        ValueError: a link names a file that does not exist.
    """

    def link(match: re.Match[str]) -> str:
        found = (source.parent / match[1]).resolve()
        if not found.exists():
            raise ValueError(f"{source.relative_to(ROOT)} links to {match[1]}, which does not exist")
        path = found.relative_to(ROOT).as_posix()
        fragment = match[2] or ""
        if path in ELSEWHERE:
            return f"]({_relative(Path(ELSEWHERE[path]), target)}{fragment})"
        if found.is_relative_to(DOCS):
            return f"]({_relative(found.relative_to(DOCS), target)}{fragment})"
        kind = "tree" if found.is_dir() else "blob"
        return f"]({repository()}/{kind}/main/{path}{fragment})"

    return LINK.sub(link, source.read_text(encoding="utf-8"))


def _relative(page: Path, target: Path) -> str:
    return "../" * (len(target.parts) - 1) + page.as_posix()


def collect(directory: Path) -> None:
    """Writes the pages and llms.txt."""
    shutil.rmtree(directory, ignore_errors=True)
    pages = {path.relative_to(DOCS): path for path in sorted(DOCS.rglob("*.md"))}
    pages |= {Path(target): ROOT / source for source, target in ELSEWHERE.items()}
    for target, source in pages.items():
        path = directory / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(source, target), encoding="utf-8")
    for path in DOCS.rglob("*.*"):
        if path.suffix in {".png", ".svg", ".json", ".yaml"}:
            target = directory / path.relative_to(DOCS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (directory / "llms.txt").write_text(listed(pages), encoding="utf-8")


def listed(pages: dict[Path, Path]) -> str:
    """The pages with their titles, as https://llmstxt.org describes the file."""
    lines = [
        "# pgonce",
        "",
        "> Stripe webhooks handled exactly once, jobs that never overlap, imports that resume.",
        "",
    ]
    for target, source in sorted(pages.items()):
        title = re.search(r"^# (.+)$", source.read_text(encoding="utf-8"), re.MULTILINE)
        lines.append(f"- [{title[1] if title else target.stem}]({target.as_posix()})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/docs_site.py DIRECTORY")
    collect(Path(sys.argv[1]))
