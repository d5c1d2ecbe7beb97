"""The algorithm as Prefect flows over `tasks`."""

import logging

# What core says is part of a run's logs; Prefect sends it there but leaves its level alone.
logging.getLogger("core").setLevel(logging.INFO)
