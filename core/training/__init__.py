"""What trains: autoencoder, diffusion stages, discriminator. May import generation and below."""
