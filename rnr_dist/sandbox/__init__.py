"""Running what a model wrote: layers, limits, verdicts. `inside/` runs within the sandbox."""
