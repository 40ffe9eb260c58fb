"""The application of the specification: a small Bible study service."""
