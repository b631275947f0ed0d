"""`rnr` as a Ray job: the same commands and exit codes, on the cluster that the job runs in.

    ray job submit --address http://HEAD:8265 --working-dir . \\
        --runtime-env cluster/runtime_env.yaml -- python jobs/rnr.py run configs/demo.yaml
"""

import os

from rnr_dist.commands.cli import main

if __name__ == "__main__":
    # `rnr` without an address starts a Ray of its own; `auto` finds the cluster of this machine.
    os.environ.setdefault("RAY_ADDRESS", "auto")
    main()
