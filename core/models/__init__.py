"""Equations of the models: diffusion, sampling, discriminator, loss terms. May import networks and below."""
