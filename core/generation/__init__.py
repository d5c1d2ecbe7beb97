"""Encodes and draws layouts with trained models, and checks these. May import labels and below."""
