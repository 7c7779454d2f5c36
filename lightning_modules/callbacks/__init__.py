"""Lightning callbacks: scoring, checkpoints, resuming, averaging, samples, throughput."""
