"""`make console`: the console over a shop at work, with its good days and its bad ones."""
