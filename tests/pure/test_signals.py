"""A signal that comes twice within moments is one request, as `timeout`, npm and process managers send it."""

from __future__ import annotations

import signal

import pytest

from pgonce.cli import signals
from pgonce.core import service


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_repeated_signal_ends_nothing_and_a_later_one_has_its_usual_effect(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    received: list[int] = []
    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with signals.first_handled(received.append):
            monkeypatch.setattr(service, "REPEATED", 3600.0)
            for each in ("SIGINT", name):
                signal.raise_signal(getattr(signal, each))
            assert received == [signal.SIGINT]
            monkeypatch.setattr(service, "REPEATED", -1.0)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(getattr(signal, name))
    finally:
        signal.signal(signal.SIGTERM, usual)


def test_a_repeated_signal_does_not_interrupt_the_recording_of_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        with signals.Interrupts("letters"):
            try:
                monkeypatch.setattr(service, "REPEATED", 3600.0)
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGTERM)
                monkeypatch.setattr(service, "REPEATED", -1.0)
                with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
                    signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        work()
    assert ended.value.code == 128 + signal.SIGTERM
