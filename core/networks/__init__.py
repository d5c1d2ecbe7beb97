"""Networks that checkpoints hold weights of: of the project, ImgiNav and diffusers. May import data and below."""
