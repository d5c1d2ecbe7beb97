"""Models in forms that others use, and cards that say what they are. May import rounds and below."""
