"""The settings of an experiment: their schema, and reading them from YAML. May import storage and below."""
