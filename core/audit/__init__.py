"""The independent judge: rules, distribution, memorisation. May import training and below."""
