"""The generator of synthetic house layouts. May import data and below."""
