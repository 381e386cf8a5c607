"""Child processes: limits, sandbox, fork server, and arrays in shared memory."""
