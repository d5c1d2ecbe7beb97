"""The networks that checkpoints hold weights of: the project's own and those of ImgiNav. May import data and below."""
