"""The independent audit of layouts: rules, distribution, memorisation. May import training and below."""
