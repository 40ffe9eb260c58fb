"""Prints paragraphs of comments and documents, chosen at random, for a reader to judge whether they can be understood.

    python tools/random_paragraphs.py --seed 1 --rev main --count 10 [FOLDER]...

The same seed and revision give the same paragraphs. A paragraph has at least eight words. It is a run of comment lines
of Python or SQL, or a part of a docstring or of a Markdown page between two empty lines. Generated files, code and
tables are left out.
"""

from __future__ import annotations

import argparse
import ast
import io
import random
import re
import subprocess
import tarfile
import tokenize
from collections.abc import Iterator

LEAST = 8
"""Words that a paragraph has at least."""


def sources(revision: str, folders: list[str]) -> Iterator[tuple[str, str]]:
    """Path and text of every Python, SQL and Markdown file of a revision that is not generated."""
    command = ["git", "archive", revision, *folders]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is None or not member.name.endswith((".py", ".sql", ".md")):
                continue
            text = content.read().decode()
            if "enerated from " not in text[:200]:
                yield member.name, text


def blocks(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Runs of lines with consecutive numbers, each with the number of its first line; an empty line ends a run."""
    first = last = 0
    words: list[str] = []
    for number, line in lines:
        if words and (number != last + 1 or not line.strip()):
            yield first, " ".join(words)
            words = []
        if line.strip():
            first = first if words else number
            words += line.split()
        last = number
    if words:
        yield first, " ".join(words)


def comments(text: str) -> Iterator[tuple[int, str]]:
    """The comments of Python code that stand alone on their lines."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and token.line.strip() == token.string:
            yield token.start[0], token.string.lstrip("#:")


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """The lines of all strings that are statements: docstrings, and the texts below a constant."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from enumerate(node.value.value.splitlines(), node.lineno)
            yield node.lineno + len(node.value.value.splitlines()), ""


def paragraphs(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Line number and text of each paragraph of a file."""
    numbered = list(enumerate(text.splitlines(), 1))
    if path.endswith(".py"):
        yield from blocks(comments(text))
        yield from blocks(docstrings(text))
    elif path.endswith(".sql"):
        yield from blocks((at, line.strip()[2:]) for at, line in numbered if re.match(r"\s*--[^|]*$", line))
    else:
        is_code = False
        prose = []
        for number, line in numbered:
            is_code ^= line.lstrip().startswith("```")
            if re.match(r"\s*- ", line):
                prose.append((number, ""))  # each item of a list is a paragraph
            prose.append((number, "" if is_code or re.match(r"\s*(```|\||#|<)", line) else line))
        yield from blocks(iter(prose))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rev", default="HEAD")
    parser.add_argument("--count", type=int, default=10)
    given = parser.parse_args()
    found = [
        (path, number, text)
        for path, content in sources(given.rev, given.folders)
        for number, text in paragraphs(path, content)
        if len(text.split()) >= LEAST
    ]
    for path, number, text in sorted(random.Random(given.seed).sample(found, min(given.count, len(found)))):  # noqa: S311
        print(f"{path}:{number}: {text}\n")
    print(f"{given.count} of {len(found)} paragraphs, seed {given.seed}, revision {given.rev}")


if __name__ == "__main__":
    main()
