"""Jobs: the overlap guard, a run with its heartbeat and fence, and the scheduler."""
