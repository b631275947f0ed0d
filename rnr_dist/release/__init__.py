"""Release: subtract what was revealed and add back what should stay (Eq. 1).

In: forget set and retain set. Out: a model reference, and the weights or the adapter that it
stands for. Invariant: every step is one more term over the same pristine checkpoint.
"""
