"""Users, passwords and tokens of the console."""

from __future__ import annotations

import pytest

from pgonce.console import auth
from pgonce.errors import InvalidArgument

HASH = auth.hash_password("secret", log_n=10)


def test_a_hash_fits_into_the_list_of_users_and_a_shell_reads_nothing_in_it() -> None:
    line = auth.hash_password("pass:word,$HOME", log_n=10)
    assert not set(line) & set(":,$`\"'\\ \n!*")
    [user] = auth.read_users(f"ops:operator:{line}").values()
    assert (user.name, user.role) == ("ops", "operator")
    assert auth.is_password("pass:word,$HOME", user)
    assert not auth.is_password("pass:word,", user)


def test_two_hashes_of_one_password_differ() -> None:
    assert auth.hash_password("secret", log_n=10) != HASH


def test_nobody_has_no_password() -> None:
    assert not auth.is_password("", None)
    assert not auth.is_password("secret", None)


def test_an_unknown_name_costs_as_much_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[int] = []

    def derive(_password: str, _salt: bytes, log_n: int, *_more: int) -> bytes:
        costs.append(log_n)
        return b""

    monkeypatch.setattr(auth, "_derive", derive)
    users = [auth.User("eva", "reader", f"scrypt.11.8.3.{'A' * 16}.{'A' * 43}")]
    assert not auth.is_password("x", None, users)
    assert not auth.is_password("x", users[0], users)
    assert costs == [11, 11]


@pytest.mark.parametrize("password", ["", "x" * 1025, "é" * 600, "\udcff"])
def test_a_password_that_cannot_be_one_is_refused(password: str) -> None:
    with pytest.raises(InvalidArgument):
        auth.hash_password(password)
    user = auth.read_users(f"ops:operator:{HASH}")["ops"]
    assert not auth.is_password(password, user)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ops", "user 1 in PGONCE_CONSOLE_USERS: write name:role:hash"),
        ("ops:admin:HASH", "'admin' is not a role: write reader or operator"),
        ("ops:reader:HASH,ops:reader:HASH", "has the user ops twice"),
        ("ops:operator:secret", "has no hash that can be read: make one with `pgonce console hash`"),
        ("ops:operator:scrypt.30.8.1.AAAAAAAAAAAAAAAA.AAAA", "has no hash that can be read"),
        ("ops:operator:SHORT", "has no hash that can be read"),
        (":operator:HASH", "user 1"),
    ],
)
def test_a_user_that_cannot_be_read_is_an_error_that_does_not_quote_the_hash(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        auth.read_users(text.replace("HASH", HASH).replace("SHORT", HASH[:-4]))
    assert says in str(caught.value)
    assert HASH not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_session_is_bound_to_name_role_and_password() -> None:
    users = [
        auth.User("ops", "operator", HASH),
        auth.User("ops", "reader", HASH),
        auth.User("ops", "operator", auth.hash_password("secret", log_n=10)),
        auth.User("eve", "operator", HASH),
    ]
    assert len({user.credential for user in users}) == len(users)


def test_the_token_of_a_form_does_not_reveal_the_cookie() -> None:
    token = auth.new_token()
    assert auth.form_token(token) not in {token, auth.token_hash(token).hex()}
    assert auth.form_token(token) != auth.form_token(auth.new_token())
