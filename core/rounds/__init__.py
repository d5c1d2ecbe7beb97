"""Rounds of a run: planning, records, alarms, status, garbage, comparison, report. May import all of core."""
