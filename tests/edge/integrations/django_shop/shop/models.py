"""The shop's table."""

from django.db import models


class Payment(models.Model):
    """A paid invoice."""

    invoice = models.TextField(unique=True)
