"""The clock: workloads, runtimes, and timing in fresh processes."""
