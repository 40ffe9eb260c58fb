"""Applications that use pgonce, to read and to run."""
