"""The HTML pages of this package: jinja2 templates beside the modules that fill them, with everything escaped."""

from importlib import resources

import jinja2

_ENVIRONMENT = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)


def page_template(name: str) -> jinja2.Template:
    """The template in the file `name` beside this module."""
    return _ENVIRONMENT.from_string(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))
