"""``python -m pgonce``: the command, where no script of that name is on PATH."""

from pgonce.cli import main

if __name__ == "__main__":
    main()
