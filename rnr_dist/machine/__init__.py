"""Ray: the session, the plan of resources, trials of Tune, threads of the driver."""
