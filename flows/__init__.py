"""The algorithm as Prefect flows over `tasks`."""

import logging

from flows.prefect_settings import apply_settings
from tasks.start_up import say_in_one_line

say_in_one_line()

# Before any module of this package imports Prefect.
apply_settings()
# What core says is part of a run's logs; Prefect sends it there but leaves its level alone.
logging.getLogger("core").setLevel(logging.INFO)
