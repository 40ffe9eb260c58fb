"""What webhooks, jobs and imports share: calls of SQL functions, pools, migrations, the embedded server."""

from pgonce.core import logger as logger  # before anything is logged
