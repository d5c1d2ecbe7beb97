"""Judges layouts: rules, distribution, memorisation. May import checkpoints, houses and below."""
