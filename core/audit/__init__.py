"""Judges layouts: rules, distribution, memorisation. May import models, houses and below."""
