"""The networks that checkpoints hold weights of: the project's own, ImgiNav's and diffusers'. May import data and below."""
