"""The build farm: a matrix of builds as tasks, on this machine's processes or on a Ray cluster."""
