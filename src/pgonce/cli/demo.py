"""``pgonce demo``."""

import click


@click.command()
@click.option("--keep", is_flag=True, help="Leave the server up at the end.")
def demo(keep: bool) -> None:
    """Run the three promises against crashes, for real, and print what came of them."""
    raise NotImplementedError
