"""Announces an event as a round does, in a process of its own: EVENT EXPERIMENT CONFIG [OVERRIDE ...]."""

import sys

from flows.round_events import announce

if __name__ == "__main__":
    event, experiment, config, *overrides = sys.argv[1:]
    told = {"text": "it is being fooled", "report": f"/artifacts/{experiment}/report.html"}
    announce(event, experiment, config, overrides, round=1, **told)
