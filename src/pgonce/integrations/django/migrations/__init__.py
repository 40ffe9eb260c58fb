"""One migration for each release of pgonce: it does what ``pgonce migrate`` does."""
