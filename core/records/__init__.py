"""What a run writes down: artefact names, records, ownership, states, the lease. May import config and below."""
