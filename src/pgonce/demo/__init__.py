"""The parts of ``pgonce demo``: each promise against crashes, with the command line as separate processes."""
