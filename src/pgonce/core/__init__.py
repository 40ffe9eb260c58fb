"""What webhooks, jobs and imports share: calls of SQL functions, pools, migrations, the embedded server."""
