"""Equations and files of the models: checkpoints, diffusion, sampling, loss terms. May import networks and below."""
