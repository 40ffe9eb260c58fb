"""What holds for each mistake of the tables."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgonce.errors import InvalidArgument


def check_refusal(make: Callable[[], object], line: str, secret: str) -> None:
    """The mistake is refused with one line, which has ``line`` and not ``secret``."""
    with pytest.raises(InvalidArgument) as refused:
        make()
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)
    assert secret not in str(refused.value)
