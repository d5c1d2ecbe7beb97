"""Models in forms that others use, and cards that say what they are. May import reports and below."""
