"""Who may use the console: users with passwords, those of the host application, or those that a proxy names."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from uuid import UUID

from pgonce.errors import InvalidArgument

Role = Literal["reader", "operator"]
ROLES: tuple[Role, ...] = ("reader", "operator")
Found: TypeAlias = tuple[str, str] | None
UserOf: TypeAlias = Callable[[Any], Found | Awaitable[Found]]
"""Returns the name and role of the user of an ASGI scope; None: nobody is logged in."""

LONGEST_PASSWORD = 1024
"""Bytes of a password, at most, because scrypt first reads all of it."""
LOG_N, BLOCK, PARALLEL = 15, 8, 3
"""scrypt's cost: 32 MB and about a quarter of a second for each attempt."""
MEMORY = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class User:
    """A user with a password."""

    name: str
    role: Role
    password: str
    """The line that ``pgonce console hash`` prints."""

    @property
    def credential(self) -> str:
        """What a session is bound to: it ends when the password or the role changes."""
        return hashlib.sha256(f"{self.name}\0{self.role}\0{self.password}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sends a request."""

    name: str
    role: Role
    source: Literal["password", "host", "proxy", "local"]
    session: UUID
    """The row in ``pgonce_console_sessions``: actions name it, and the database looks up the role."""

    @property
    def operator(self) -> bool:
        """Whether to draw the actions. The database decides about each of them by itself."""
        return self.role == "operator"


def read_role(role: str) -> Role:
    """``role``, if there is such a one.

    Raises:
        InvalidArgument: it is neither reader nor operator.
    """
    for known in ROLES:
        if role == known:
            return known
    raise InvalidArgument(f"{role!r} is not a role: write reader or operator")


def read_users(text: str) -> dict[str, User]:
    """The users in PGONCE_CONSOLE_USERS: name:role:hash, separated by commas.

    Raises:
        InvalidArgument: an entry cannot be read. The message has its number, and not its hash.
    """
    users: dict[str, User] = {}
    entries = [entry.strip() for entry in text.split(",")]
    for number, entry in enumerate((entry for entry in entries if entry), 1):
        name, _, rest = entry.partition(":")
        role, _, password = rest.partition(":")
        if not name or not password:
            raise InvalidArgument(
                f"user {number} in PGONCE_CONSOLE_USERS: write name:role:hash, hash by `pgonce console hash`"
            )
        if name in users:
            raise InvalidArgument(f"PGONCE_CONSOLE_USERS has the user {name} twice")
        if _parts(password) is None:
            raise InvalidArgument(
                f"user {name} in PGONCE_CONSOLE_USERS has no hash that can be read: make one with `pgonce console hash`"
            )
        try:
            users[name] = User(name, read_role(role), password)
        except InvalidArgument as error:
            raise InvalidArgument(f"user {name} in PGONCE_CONSOLE_USERS: {error}") from None
    return users


def hash_password(password: str, log_n: int = LOG_N) -> str:
    """One line for PGONCE_CONSOLE_USERS: salted scrypt, without a colon, a comma or a sign that a shell reads.

    Args:
        password: at most 1,024 bytes.
        log_n: scrypt's cost: each step doubles memory and time.

    Raises:
        InvalidArgument: it is empty, not UTF-8 text, or longer than 1,024 bytes.
    """
    if not password:
        raise InvalidArgument("the password is empty: write it to standard input")
    if any("\ud800" <= sign <= "\udfff" for sign in password):  # a browser sends another text
        raise InvalidArgument("the password is not UTF-8 text: write it in UTF-8")
    if len(password.encode()) > LONGEST_PASSWORD:
        raise InvalidArgument(f"the password is longer than {LONGEST_PASSWORD:,} bytes")
    salt = secrets.token_bytes(16)
    key = _derive(password, salt, log_n, BLOCK, PARALLEL)
    return f"scrypt.{log_n}.{BLOCK}.{PARALLEL}.{_text(salt)}.{_text(key)}"


def is_password(password: str, user: User | None, others: Iterable[User] = ()) -> bool:
    """Whether ``password`` is the user's. It takes as long for an unknown name as for the slowest of ``others``."""
    hashes = [user] if user else others
    parts = max((each for other in hashes if (each := _parts(other.password))), default=NOBODY)
    if len(password.encode("utf-8", "replace")) > LONGEST_PASSWORD:
        return False
    log_n, block, parallel, salt, wanted = parts
    matches = hmac.compare_digest(_derive(password, salt, log_n, block, parallel), wanted)
    return matches and user is not None


def _derive(password: str, salt: bytes, log_n: int, block: int, parallel: int) -> bytes:
    given = password.encode("utf-8", "replace")
    return hashlib.scrypt(given, salt=salt, n=2**log_n, r=block, p=parallel, maxmem=MEMORY, dklen=32)


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def _parts(line: str) -> tuple[int, int, int, bytes, bytes] | None:
    """Cost, salt and key of a hash; None if it cannot be read, or would cost more memory than `MEMORY`."""
    kind, _, rest = line.partition(".")
    fields = rest.split(".")
    if kind != "scrypt" or len(fields) != 5 or not all(field.isdecimal() for field in fields[:3]):
        return None
    log_n, block, parallel = (int(field) for field in fields[:3])
    if not (10 <= log_n <= 20 and 1 <= block <= 32 and 1 <= parallel <= 16) or 2**log_n * block * 128 >= MEMORY:
        return None
    try:
        salt, key = (base64.urlsafe_b64decode(field + "=" * (-len(field) % 4)) for field in fields[3:])
    except ValueError:
        return None
    return (log_n, block, parallel, salt, key) if len(salt) >= 8 and len(key) == 32 else None


NOBODY = (LOG_N, BLOCK, PARALLEL, bytes(16), bytes(32))
"""Cost, salt and key of a hash that no password has."""


def new_token() -> str:
    """What a browser's cookie holds."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> bytes:
    """What the database stores of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def form_token(token: str) -> str:
    """What the forms of this browser hold: another site cannot read it, and it does not reveal the cookie."""
    return hmac.digest(token.encode("utf-8", "replace"), b"pgonce console form", "sha256").hex()
