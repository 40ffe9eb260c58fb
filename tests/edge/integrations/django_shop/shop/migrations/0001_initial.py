"""The shop's table."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """As ``makemigrations`` writes it."""

    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Payment",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("invoice", models.TextField(unique=True)),
            ],
        ),
    )
