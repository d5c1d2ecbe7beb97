"""What every room stands on: errors, files, logs, progress, randomness, devices, processes. Imports no other room."""
