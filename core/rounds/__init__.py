"""Rounds of a run: planning, records, alarms, decisions, garbage. May import training and below."""
