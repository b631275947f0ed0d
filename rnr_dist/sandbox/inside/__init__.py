"""What runs inside the sandbox: one process that judges, and one that runs the candidate's program.

Only the standard library is there, so these modules import nothing else, and each other relatively.
"""
