"""``pgonce init``: a file that runs at once, and the settings that every command reads."""

from __future__ import annotations

import os
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import click

from pgonce.cli import configuration
from pgonce.errors import InvalidArgument

SECRET = "whsec_test"  # noqa: S105 -- for this machine: Stripe's are random
SEND = "pgonce webhook send --type checkout.session.completed"
KINDS: dict[str, tuple[str, str | None, tuple[str, ...], tuple[str, ...]]] = {
    "plain": ("shop.py", "shop:app", ("pgonce migrate", "python shop.py", "pgonce seed run plans", "pgonce serve"),
              (SEND,)),
    "fastapi": ("shop.py", "shop:app", ("pgonce migrate", "python shop.py", "uvicorn shop:api"), (SEND,)),
    "flask": ("shop.py", "shop:app", ("pgonce migrate", "python shop.py", "flask --app shop run --port 8000"),
              ("pgonce worker", SEND)),
    "django": ("shop.py", None, ("python shop.py migrate", "python shop.py runserver"),
               ("python shop.py pgonce worker", f"python shop.py {SEND}")),
    "supabase": ("supabase/functions/stripe-webhook/index.ts", None, (
        "pgonce sql --supabase", "supabase db push",
        "supabase secrets set STRIPE_API_KEY=sk_... STRIPE_WEBHOOK_SECRET=whsec_...",
        "supabase functions deploy stripe-webhook --no-verify-jwt",
    ), ()),
}  # fmt: skip
"""For each kind: the file, the app in it, the next commands, and the commands for a second terminal, because the last
command in the first one keeps running."""
NEEDS = {"fastapi": ("fastapi", "uvicorn"), "flask": ("flask",), "django": ("django",)}
"""Packages that the file imports or the commands start, besides pgonce."""

_ENV = f"""\
# Read by pgonce's commands; what the environment has comes first. Do not commit it.
PGONCE_WEBHOOK_SECRET={SECRET}
# DATABASE_URL=postgresql://user:password@localhost/shop      # without it: an embedded PostgreSQL in .pgonce
"""


@click.command()
@click.argument("kind", type=click.Choice(list(KINDS)), default="plain")
def init(kind: str) -> None:
    """Write a small application and its settings.

    The settings are [tool.pgonce] in pyproject.toml and a file .env. Nothing is overwritten.

    Example: pgonce init fastapi
    """
    name, app, following, elsewhere = KINDS[kind]
    if Path(name).exists():
        raise InvalidArgument(f"{name} exists already: run `pgonce init` in an empty folder")
    made, by_hand = _settings(app) if app else ({}, [])
    if kind != "supabase":
        made, by_hand = _add_env(made, by_hand)
    for path, content in made.items():  # before the file itself: a command that fails here can be repeated
        _write(path, content)
    _write(name, files("pgonce").joinpath(f"cli/scaffold/{kind}.txt").read_bytes())
    click.echo("\n".join([f"wrote {', '.join([name, *made])}", *by_hand, "next:"]))
    missing = [needed for needed in NEEDS.get(kind, ()) if find_spec(needed) is None]
    install = [f"pip install {' '.join(missing)}"] if missing else []
    if kind == "supabase" and not Path("supabase/config.toml").exists():
        install.append("supabase init")
    for command in (*install, *following):
        click.echo(f"  {command}")
    if elsewhere:
        click.echo("in other terminals:" if len(elsewhere) > 1 else "in another terminal:")
    for command in elsewhere:
        click.echo(f"  {command}")


def _settings(app: str) -> tuple[dict[str, bytes], list[str]]:
    """What to write into files, by their names, and lines that say what to write by hand."""
    section = configuration.section(Path("pyproject.toml"))
    if section is None:
        return {"pyproject.toml": _append("pyproject.toml", ["", "[tool.pgonce]", f'app = "{app}"'])}, []
    other = section.get("app") != app
    return {}, [f'pyproject.toml has [tool.pgonce] already: write app = "{app}" there'] * other


def _add_env(made: dict[str, bytes], by_hand: list[str]) -> tuple[dict[str, bytes], list[str]]:
    if not Path(".env").exists():
        made[".env"] = _ENV.encode()
    elif "PGONCE_WEBHOOK_SECRET" not in os.environ:
        by_hand.append(f".env exists already: write PGONCE_WEBHOOK_SECRET={SECRET} there")
    known = _read(".gitignore").decode("utf-8", "replace").splitlines()
    if missing := [line for line in (".env", ".pgonce/") if line not in known]:
        made[".gitignore"] = _append(".gitignore", missing)
    return made, by_hand


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from None


def _append(path: str, lines: list[str]) -> bytes:
    """The content of the file with ``lines`` at its end, in the file's own line ends."""
    content = _read(path)
    end = b"\r\n" if b"\r\n" in content else b"\n"
    if content and not content.endswith(b"\n"):
        content += end
    return content + b"".join(line.encode() + end for line in lines if line or content)


def _write(path: str, content: bytes) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content)
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be written: {error.strerror}") from None
