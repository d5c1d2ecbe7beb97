"""Layouts and latents: palette, manifest, pictures, rotations, scale. May import records and below."""
