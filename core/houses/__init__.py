"""The generator of house layouts. May import data and below."""
