"""Processes, signals, devices and launchers (srun, torchrun)."""
