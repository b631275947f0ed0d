"""What `ray job submit` calls: the same as `rnr run`, on the cluster that the job runs in.

    ray job submit --address http://HEAD:8265 --working-dir . \\
        --runtime-env cluster/runtime_env.yaml -- python jobs/run.py configs/toxicity_small.yaml
"""

import os
import sys

from rnr_dist.cli import app, guarded

if __name__ == "__main__":
    # A job's driver finds its cluster here; `rnr` alone would start a Ray of its own.
    os.environ.setdefault("RAY_ADDRESS", "auto")
    sys.argv.insert(1, "run")
    sys.exit(guarded(lambda: app(standalone_mode=False)))
