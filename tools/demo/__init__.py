"""``make demo``: the three guarantees while processes are killed, each process a real `pgonce` command."""
