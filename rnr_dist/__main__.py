"""`python -m rnr_dist` is `rnr`."""

from rnr_dist.commands.cli import main

if __name__ == "__main__":
    main()
