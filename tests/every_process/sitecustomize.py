"""Read first by every Python process that the tests start: this folder is on their PYTHONPATH.

Importing Prefect and torch makes half a million objects and no garbage: looking for some takes up to a fifth of it.
"""

import gc

gc.set_threshold(10_000)
