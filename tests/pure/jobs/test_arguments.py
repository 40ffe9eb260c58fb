"""The arguments with which a run may be started. An error names the argument."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from pgonce.errors import InvalidArgument
from pgonce.jobs.calls import Start

MINUTE = timedelta(minutes=1)


class Plan(enum.Enum):
    """A user's enumeration."""

    PRO = "pro"


class Size(enum.IntEnum):
    """Another one."""

    BIG = 3


@dataclasses.dataclass
class Customer:
    """A user's own class."""

    number: int


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (Decimal("12.90"), "12.90"),
        (Plan.PRO, "pro"),
        (Size.BIG, 3),
        ((1, [UUID(int=1)]), [1, ["00000000-0000-0000-0000-000000000001"]]),
        ({"of": {"the": Decimal("1e3")}}, {"of": {"the": "1E+3"}}),
        (True, True),
        (None, None),
        (1.5, 1.5),
        (10**30, 10**30),
        ("ü\U0001f600", "ü\U0001f600"),
    ],
)
def test_what_has_a_faithful_form_in_json_may_be_in_a_scope(given: Any, written: Any) -> None:
    scope = Start("job", MINUTE, scope={"given": given}).scope
    assert scope == {"given": written}
    assert json.loads(json.dumps(scope, allow_nan=False)) == scope


ITSELF: dict[str, Any] = {}
ITSELF["itself"] = ITSELF


@pytest.mark.parametrize(
    ("scope", "says"),
    [
        ({"a": b"bytes"}, "scope['a'] is of type bytes"),
        ({"a": {1, 2}}, "scope['a'] is of type set"),
        ({"a": [Customer(1)]}, "scope['a'][0] is of type Customer"),
        ({"a": math.nan}, "scope['a'] is nan"),
        ({"a": math.inf}, "scope['a'] is inf"),
        ({"a": 10**5000}, "scope['a'] has more than 4,000 digits"),
        ({"a": -(10**4000)}, "scope['a'] has more than 4,000 digits"),
        ({"a": {"b": "x\0"}}, "scope['a']['b'] contains the character NUL"),
        ({"a\0": 1}, "a key of scope contains the character NUL"),
        ({"a": "\ud800"}, "scope['a'] contains half a surrogate pair"),
        ({1: "a"}, "scope has the key 1"),
        ([1], "the scope must be a mapping"),
        ("text", "the scope must be a mapping"),
        (ITSELF, "contains itself"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place(scope: Any, says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Start("job", MINUTE, scope=scope)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": ""}, "the job name must not be empty"),
        ({"name": 7}, "the job name must be text"),
        ({"name": None}, "the job name must be text"),
        ({"name": b"job"}, "the job name must be text"),
        ({"name": "a\0"}, "the job name contains the character NUL"),
        ({"name": "\udc80"}, "the job name contains half a surrogate pair"),
        ({"name": "n" * 2501}, "the job name and the key have 2,501 bytes"),
        ({"name": "ü" * 1000, "key": "k" * 501}, "the job name and the key have 2,501 bytes"),
        ({"key": 7}, "the key must be text"),
        ({"key": UUID(int=1)}, "the key must be text"),
        ({"key": "\0"}, "the key contains the character NUL"),
        ({"scheduled_for": "2026-01-01"}, "scheduled_for must be a datetime"),
        ({"scheduled_for": date(2026, 1, 1)}, "scheduled_for must be a datetime"),
        ({"scheduled_for": datetime(2026, 1, 1)}, "scheduled_for has no time zone"),  # noqa: DTZ001 -- on purpose
        ({"retries": -1}, "retries must be a whole number"),
        ({"retries": 1.5}, "retries must be a whole number"),
        ({"slots": 0}, "slots must be a whole number of at least 1"),
        ({"slots": True}, "slots must be a whole number"),
        ({"slots": 2.0}, "slots must be a whole number"),
        ({"slots": "2"}, "slots must be a whole number"),
        ({"slots": 1001}, "slots must be at most 1,000"),
    ],
)
def test_a_refusal_names_the_argument(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Start(**{"name": "job", "window": MINUTE, **arguments})
    assert says in str(refused.value)


def test_the_longest_name_and_key_fit_the_index() -> None:
    assert Start("n" * 1250, MINUTE, "k" * 1250).name == "n" * 1250
