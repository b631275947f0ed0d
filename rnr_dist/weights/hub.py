"""Put an exported folder on a model hub.

In: a folder, a repository's name. Out: its address. Invariant: the token comes from the environment
alone and is never shown; a new repository is private, and an existing one keeps its visibility.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from rnr_dist.config.secrets import without_secrets
from rnr_dist.errors import InputError

TOKEN = "HF_TOKEN"  # the variable that holds it
NAME = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}")


def require_pushable(repository: str) -> str:
    """The token. Raises InputError where there is none, or the name is no OWNER/NAME."""
    if not NAME.fullmatch(repository):
        raise InputError(f"--push-to: found {repository!r}; expected OWNER/NAME on the hub")
    token = os.environ.get(TOKEN, "")
    if not token:
        raise InputError(
            f"--push-to {repository}: found no {TOKEN} in the environment; expected a token that "
            "may write there"
        )
    return token


def push(folder: Path, repository: str) -> str:
    """Upload all files of `folder` as one commit; returns the repository's address.

    HF_ENDPOINT names another hub than the public one. Raises InputError where the hub refuses.
    """
    token = require_pushable(repository)
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Exported by rnr_dist"
        )
    except Exception as error:  # the client's own, its HTTP library's and the system's errors
        reason = without_secrets((str(error).strip().splitlines() or [""])[0])
        raise InputError(
            f"--push-to {repository}: the hub took nothing ({type(error).__name__}: {reason}); "
            f"{folder} is written and can be pushed again"
        ) from error
    return f"{api.endpoint}/{repository}"
