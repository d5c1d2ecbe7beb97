"""The lines of Python on the page about one's own models run, and draw what they say."""

import re
from pathlib import Path

import numpy as np

from core.data.palette import DEFAULT_PALETTE


def test_the_lines_on_the_page_run():
    (block,) = re.findall(r"^```python\n(.*?)^```$", Path("docs/own_models.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(block.splitlines()) == 8
    drawn = {}
    exec(compile(block, "docs/own_models.md", "exec"), drawn)
    layouts = drawn["layouts"]
    assert layouts.class_maps.shape == (4, 32, 32) and layouts.class_maps.max() < len(DEFAULT_PALETTE)
    assert layouts.pictures.shape == (4, 32, 32, 3)
    assert layouts.class_maps.dtype == layouts.pictures.dtype == np.uint8
