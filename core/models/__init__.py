"""Networks and equations: autoencoder, diffusion, discriminator, sampling, loss terms. May import data and below."""
