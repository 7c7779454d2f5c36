"""From tracks to training batches: crops, sampling, datasets, loader."""
