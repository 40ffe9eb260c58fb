"""Seeds: imports that resume at their last checkpoint."""
