"""Rounds of a run: planning, records, alarms, status, garbage, comparison, report, labels. May import all of core."""
