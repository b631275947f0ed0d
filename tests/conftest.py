"""Environment of every test, set before anything heavy is imported: no hub, no telemetry."""

import os

os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MPLBACKEND": "Agg",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray 2.60 does the same by default, but warns at each start unless told so.
        "RAY_AUTH_MODE": "token",
        "DS_ACCELERATOR": "cpu",
    }
)
