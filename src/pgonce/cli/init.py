"""``pgonce init``: a file that runs at once, and the settings that every command reads."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import click

from pgonce.errors import InvalidArgument

SECRET = "whsec_test"  # noqa: S105 -- for this machine: Stripe's are random
SEND = "pgonce webhook send --type checkout.session.completed"
KINDS: dict[str, tuple[str, str | None, tuple[str, ...], tuple[str, ...]]] = {
    "plain": (
        "shop.py",
        "shop:app",
        ("pgonce migrate", "python shop.py", "pgonce seed run plans", "pgonce serve"),
        (SEND,),
    ),
    "fastapi": ("shop.py", "shop:app", ("pgonce migrate", "python shop.py", "uvicorn shop:api"), (SEND,)),
    "flask": (
        "shop.py",
        "shop:app",
        ("pgonce migrate", "python shop.py", "flask --app shop run --port 8000"),
        ("pgonce worker", SEND),
    ),
    "django": (
        "shop.py",
        None,
        ("python shop.py migrate", "python shop.py runserver"),
        ("python shop.py pgonce worker", f"python shop.py {SEND}"),
    ),
    "supabase": (
        "supabase/functions/stripe-webhook/index.ts",
        None,
        (
            "pgonce sql --supabase",
            "supabase db push",
            "supabase secrets set STRIPE_API_KEY=sk_... STRIPE_WEBHOOK_SECRET=whsec_...",
            "supabase functions deploy stripe-webhook --no-verify-jwt",
        ),
        (),
    ),
}
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
    """Write a small application, with [tool.pgonce] in pyproject.toml and a .env. Nothing is overwritten.

    Example: pgonce init fastapi
    """
    name, app, following, elsewhere = KINDS[kind]
    path = Path(name)
    if path.exists():
        raise InvalidArgument(f"{path} exists already: run `pgonce init` in an empty folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(files("pgonce").joinpath(f"cli/scaffold/{kind}.txt").read_text("utf-8"), "utf-8")
    written = [name]
    if app is not None and _add_section(Path("pyproject.toml"), app):
        written.append("pyproject.toml")
    if kind != "supabase":
        written += _add_env()
    click.echo(f"wrote {', '.join(written)}")
    click.echo("next:")
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


def _add_section(path: Path, app: str) -> bool:
    text = path.read_text("utf-8") if path.exists() else ""
    if "[tool.pgonce]" in text:
        return False
    path.write_text(f'{text.rstrip()}\n\n[tool.pgonce]\napp = "{app}"\n'.lstrip(), "utf-8")
    return True


def _add_env() -> list[str]:
    written = []
    if not Path(".env").exists():
        Path(".env").write_text(_ENV, "utf-8")
        written.append(".env")
    ignored = Path(".gitignore")
    lines = ignored.read_text("utf-8").splitlines() if ignored.exists() else []
    missing = [line for line in (".env", ".pgonce/") if line not in lines]
    if missing:
        ignored.write_text("\n".join([*lines, *missing, ""]), "utf-8")
        written.append(".gitignore")
    return written
