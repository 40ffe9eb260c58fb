"""Writes the synchronous twin of every ``x_async.py``, as ``x.py`` in the same folder. Only the first is edited.

    python tools/unasync.py            write the generated files
    python tools/unasync.py --check    write nothing; exit 1 if a file would change, is missing or left over

Where synchronous and asynchronous code differ (sleeping, locks, background tasks), both files of a pair are written by
hand and listed in HAND_WRITTEN.

In code, `async` and `await` are removed, names are replaced by the table NAMES, and the name of a module that has a
twin loses its `_async`. In comments and strings the same names are replaced, and `async with`, `async for`,
`async def` and `await f(` lose their first word, so that examples in docstrings stay right; any other "async" in a
comment or string stays. It is an error if a rule matches nothing or an async word is left in generated code, so the
table has no unused rule and no gap.
"""

from __future__ import annotations

import ast
import difflib
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

HAND_WRITTEN = frozenset({"core/call_batcher", "core/concurrency", "seeds/stream"})
"""Pairs of which both files are written by hand; their names without the ending."""

NAMES = {
    "AbstractAsyncContextManager": "AbstractContextManager",
    "AsyncClaimer": "Claimer",
    "AsyncExecutor": "Executor",
    "AsyncConnection": "Connection",
    "AsyncConnectionPool": "ConnectionPool",
    "AsyncCopy": "Copy",
    "AsyncCursor": "Cursor",
    "AsyncExitStack": "ExitStack",
    "AsyncGuard": "Guard",
    "AsyncIterator": "Iterator",
    "AsyncJobs": "Jobs",
    "AsyncConsumer": "Consumer",
    "AsyncRun": "Run",
    "AsyncSeeds": "Seeds",
    "AsyncCallBatcher": "CallBatcher",
    "AsyncWebhooks": "Webhooks",
    "AsyncWithBlock": "WithBlock",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "asynccontextmanager": "contextmanager",
    "enter_async_context": "enter_context",
    "ensure_awaitable": "ensure_result",
}

BANNER = "# Generated from {name} by tools/unasync.py: edit that one, then `make generate`.\n"

_KEYWORD = re.compile(r"\b(?:async (?=(?:with|for|def)\b)|await (?=[\w.]+\())")
_LEFT = re.compile(r"async|await|asyncio|Async[A-Z]\w*|__a(?:enter|exit|iter|next)__")
_TEXT = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)}


class Refused(Exception):
    """The source contains something that cannot be translated; the message says where, and what to do."""


def translate(source: str, name: str, names: dict[str, str], used: set[str]) -> str:
    """Returns the synchronous twin of one module's text, with the banner, not formatted.

    Adds the rules that it applied to `used`. Raises Refused for an `await` inside an f-string, and for an async word
    that no rule covers.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr) and any(isinstance(part, ast.Await) for part in ast.walk(node)):
            # Python 3.11 reads one string there, 3.12 reads tokens: the result would depend on the version
            raise Refused(f"{name}:{node.lineno}: await inside an f-string: give the value a name first")
    rule = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(names))) + r")\b")

    def rename(match: re.Match[str]) -> str:
        used.add(match[0])
        return names[match[0]]

    lines = source.splitlines(keepends=True)
    out: list[str] = []
    row = column = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.start[0] > len(lines):
            break
        start = (token.start[0] - 1, token.start[1])
        out.append(_between(lines, (row, column), start))
        row, column = token.end[0] - 1, token.end[1]
        text = _between(lines, start, (row, column))
        if token.type == tokenize.NAME and text in {"async", "await"}:
            column += 1  # and the space after it
        else:
            out.append(rule.sub(rename, _KEYWORD.sub("", text) if token.type in _TEXT else text))
    result = "".join(out)
    for token in tokenize.generate_tokens(io.StringIO(result).readline):
        if token.type == tokenize.NAME and _LEFT.fullmatch(token.string):
            raise Refused(
                f"{name}: {token.string!r} is left in {token.line.strip()!r}: add a rule to NAMES"
                " in tools/unasync.py, or move what differs into a hand-written pair"
            )
    result = re.sub(r"\bimport (\w+) as \1\b", r"import \1", result)  # from `import x_async as x`
    return BANNER.format(name=name) + result


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The text from one (line, column) to another, both counted from 0."""
    if start[0] == end[0]:
        return lines[start[0]][start[1] : end[1]] if start[0] < len(lines) else ""
    return lines[start[0]][start[1] :] + "".join(lines[start[0] + 1 : end[0]]) + _between(lines, (end[0], 0), end)


def formatted(text: str, path: Path) -> str:
    """Sorts the imports, because a replaced name sorts elsewhere, and formats by the project's ruff settings."""
    for arguments in (["check", "--quiet", "--select", "I", "--fix"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", str(path), "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Refused(f"{path.name}: ruff could not read the result: {done.stderr or done.stdout}")
        text = done.stdout
    return text


def pairs(package: Path) -> dict[str, tuple[Path, Path]]:
    """Every pair of the package, by "folder/x": the paths of x_async.py and x.py."""
    found = {}
    for source in sorted(package.rglob("*_async.py")):
        twin = source.with_name(source.name.removesuffix("_async.py") + ".py")
        found[str(twin.relative_to(package).with_suffix(""))] = source, twin
    return found


def generate(package: Path, names: dict[str, str], hand_written: frozenset[str]) -> tuple[dict[Path, str], set[str]]:
    """Returns the path and text of every generated file, and the rules of `names` that matched nothing."""
    used: set[str] = set()
    files: dict[Path, str] = {}
    found = pairs(package)
    modules = {f"{Path(pair).name}_async": Path(pair).name for pair in found}
    for pair, (source, twin) in found.items():
        if pair not in hand_written:
            text = translate(source.read_text(encoding="utf-8"), source.name, {**modules, **names}, used)
            files[twin] = formatted(text, twin)
    return files, set(names) - used


def _left_over(package: Path, files: dict[Path, str]) -> list[Path]:
    banner = BANNER.partition("{")[0]
    return [
        path
        for path in sorted(package.rglob("*.py"))
        if path not in files and path.read_text(encoding="utf-8").startswith(banner)
    ]


def problems(package: Path, names: dict[str, str] = NAMES, hand_written: frozenset[str] = HAND_WRITTEN) -> list[str]:
    """One message for each difference between the generated files and what their sources translate to."""
    files, unused = generate(package, names, hand_written)
    found = [f"rule {name!r} in tools/unasync.py matches nothing: remove it" for name in sorted(unused)]
    for pair in sorted(hand_written):
        found += [
            f"{pair}{ending} is missing: it is written by hand"
            for ending in ("_async.py", ".py")
            if not (package / f"{pair}{ending}").exists()
        ]
    for path in _left_over(package, files):
        found.append(f"{path.relative_to(package)} has no source: remove it")
    for path, text in files.items():
        name = path.relative_to(package)
        if not path.exists():
            found.append(f"{name} is missing: make generate")
        elif (old := path.read_text(encoding="utf-8")) != text:
            lines = difflib.unified_diff(old.splitlines(), text.splitlines(), str(name), "generated", "", "", 1, "")
            found.append(f"{name} is stale: make generate\n" + "\n".join(lines))
    return found


def write(package: Path, names: dict[str, str] = NAMES, hand_written: frozenset[str] = HAND_WRITTEN) -> list[str]:
    """Writes the files that differ and removes those without a source; returns the names of the files that changed."""
    files, _ = generate(package, names, hand_written)
    changed: list[str] = []
    for path in _left_over(package, files):
        path.unlink()
        changed.append(str(path.relative_to(package)))
    for path, text in files.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(str(path.relative_to(package)))
    return changed


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    package = Path(__file__).resolve().parents[1] / "src" / "pgonce"
    try:
        if arguments == ["--check"]:
            found = problems(package)
            print("\n".join(found), file=sys.stderr, end="\n" if found else "")
            return 1 if found else 0
        if arguments:
            print("usage: python tools/unasync.py [--check]", file=sys.stderr)
            return 2
        for name in write(package):
            print(f"wrote {name}")
    except Refused as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
