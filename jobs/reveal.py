"""`rnr reveal` as a Ray job; see jobs/run.py."""

import sys

from rnr_dist.commands.cli import run_as_job

if __name__ == "__main__":
    sys.exit(run_as_job("reveal"))
