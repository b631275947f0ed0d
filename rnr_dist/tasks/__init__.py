"""Tasks: what to forget and how it is measured. A user adds one in a file of their own.

Nothing is imported here before a config names it: `config.registry` looks the names up.
"""

# Adding a task is its file and one line here.
TASKS = {
    "toxicity": "rnr_dist.tasks.toxicity:Toxicity",
    "coding": "rnr_dist.tasks.coding:Coding",
    "extraction": "rnr_dist.tasks.extraction:Extraction",
    "ner": "rnr_dist.tasks.ner:Ner",
}
DEFAULT_TASK = "toxicity"  # of a config whose task has no name
