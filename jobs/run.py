"""What `ray job submit` calls: the same as `rnr run`, on the cluster that the job runs in.

    ray job submit --address http://HEAD:8265 --working-dir . \\
        --runtime-env cluster/runtime_env.yaml -- python jobs/run.py configs/toxicity_small.yaml
"""

import sys

from rnr_dist.commands.cli import run_as_job

if __name__ == "__main__":
    sys.exit(run_as_job("run"))
