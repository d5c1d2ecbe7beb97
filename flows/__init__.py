"""Prefect flows: the rounds of training, and the commands that start them. They call `tasks` and `core`."""

import logging

from flows.prefect_settings import apply_settings
from tasks.start_up import say_in_one_line

say_in_one_line()

# Before any module of this package imports Prefect, which reads its settings then.
apply_settings()
# Log lines of core are part of a run's logs. Prefect forwards them, but does not set the level.
logging.getLogger("core").setLevel(logging.INFO)
