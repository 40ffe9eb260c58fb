"""The Westminster Standards, as the seed `catechism` reads them: from the PyPI package `westminster-standards-cli`.

The Confession of Faith (WCF, 171 sections), the Larger Catechism (WLC, 196 questions) and the Shorter (WSC, 107).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from examples.bible_study.missing import NotInstalled

DOCUMENTS = ("WCF", "WLC", "WSC")  # in the order in which they are read
TOTAL = 171 + 196 + 107


class Article(NamedTuple):
    """One section or question; the fields are the columns of `catechism`. `proofs` is a list of references."""

    document: str
    ref: str
    heading: str
    body: str
    proofs: dict[str, Any]

    @property
    def cursor(self) -> dict[str, str]:
        """The checkpoint "this one is done"."""
        return {"last_document": self.document, "last_ref": self.ref}


def articles(after: Mapping[str, Any] | None = None) -> Iterator[Article]:
    """All sections and questions after a cursor, in the documents' order; None starts at WCF 1.1.

    Raises `NotInstalled` if the package is missing and `ValueError` if the cursor does not name one of them. Both are
    raised by the call itself.
    """
    found = list(_read())
    if after is None or after == {}:
        return iter(found)
    for index, article in enumerate(found):
        if article.cursor == after:
            return iter(found[index + 1 :])
    raise ValueError(
        f"nothing in the Westminster Standards: {after!r}; a cursor looks like "
        "{'last_document': 'WLC', 'last_ref': '99'}"
    )


def _read() -> Iterator[Article]:
    spec = find_spec("westminster_cli")
    if spec is None or spec.origin is None:
        raise NotInstalled("the Westminster Standards are not installed: run pip install westminster-standards-cli")
    file = Path(spec.origin).with_name("data") / "standards.json"
    documents = {item["id"].upper(): item["entries"] for item in json.loads(file.read_bytes())["documents"]}
    for document in DOCUMENTS:
        for entry in documents[document]:
            proofs = {proof["letter"]: proof["references"] for proof in entry.get("proofs", ())}
            heading = entry.get("question") or entry["heading"]
            yield Article(document, str(entry["ref"]), heading, entry.get("answer") or entry["text"], proofs)
