"""Where the work runs: here, in threads, in processes, on a cluster."""
