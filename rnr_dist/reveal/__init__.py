"""Algorithm 1: search soft prompts whose instructions make the model reveal the target."""
