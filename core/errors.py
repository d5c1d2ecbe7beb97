"""The one exception for what a user can cause and mend."""


class InputError(Exception):
    """One line that names the thing that is wrong and what to do; commands print it and exit with 2."""
