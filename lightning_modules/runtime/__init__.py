"""The machine: processes, signals, devices, launchers."""
