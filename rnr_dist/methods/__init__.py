"""What Reveal-and-Release is compared with (paper section 4.2), each as an adapter or a training.

In: adapters and data of the same base model. Out: something that composition and evaluation take
like a result of R&R. Invariant: a baseline is measured by the same code as the method itself.
"""
