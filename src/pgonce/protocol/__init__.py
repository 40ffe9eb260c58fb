"""The protocol as values: the calls of the SQL functions and their results. Nothing here waits for anything."""
