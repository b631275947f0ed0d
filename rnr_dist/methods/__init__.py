"""Methods of forgetting, one file each: both papers' own, and those that they are compared with.

In: materials of a task. Out: a model. Invariant: every method sees the same materials, has the same
budget and is measured by the same code.
"""
