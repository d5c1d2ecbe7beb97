"""What every package stands on: errors, files, logs, progress, randomness, devices, processes. Imports no other."""
