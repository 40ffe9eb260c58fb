"""What every noun stands on: calls of SQL functions, pools, migrations, the embedded server."""
