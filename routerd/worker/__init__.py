"""Worker processes: the process itself (`process`), what it computes (`host`), and its supervisor in the daemon."""
