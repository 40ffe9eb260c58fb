"""For the tests of your handlers and jobs: events, signed deliveries, and running what waits. See docs/testing.md."""

from pgonce.testing.clean import clean
from pgonce.testing.events import PATH, SECRET, Delivery, deliver, event, handled, signed
from pgonce.testing.run import Clock, drain, run

__all__ = ["PATH", "SECRET", "Clock", "Delivery", "clean", "deliver", "drain", "event", "handled", "run", "signed"]
