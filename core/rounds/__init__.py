"""Rounds of a run: planning, records, alarms, status, garbage, comparison, report, labelling. May import all of core."""
