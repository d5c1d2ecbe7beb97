"""The documentation is true: its links lead somewhere, and the commands, options and settings that it names exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.schema import LEAVES

README = Path("README.md")
# What comparisons write is no page.
PAGES = [README, Path("CONTRIBUTING.md"), *sorted(Path("docs").glob("*.md")), Path("docs/evidence/README.md")]
PACKAGES = ("core", "tasks", "flows", "deployments", "tests")
# What settings were called before; the page on configuration says that they are still read.
EARLIER_KEYS = {"comparison.arms"}

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_MODULE = re.compile(rf"-m ((?:{'|'.join(PACKAGES)})\.[\w.]+)")
_SECTIONS = "|".join(sorted({leaf.key.partition(".")[0] for leaf in LEAVES}))
_KEY = re.compile(rf"(?<![\w./-])((?:{_SECTIONS})(?:\.[a-z_0-9]+)+)(?![\w/])")
_FILE = re.compile(r"\.(json|yaml|csv|png|npz|pt|npy|md|html|safetensors)$")

pages = pytest.mark.parametrize("page", PAGES, ids=str)


@pages
def test_every_link_leads_to_a_file_and_a_heading(page):
    text = _BLOCK.sub("", page.read_text())
    for target in _LINK.findall(text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page}: {target}"


def test_the_readme_is_a_page():
    assert len(README.read_text().split()) <= 700


def test_every_page_is_linked_from_the_readme():
    linked = {Path(target.partition("#")[0]) for target in _LINK.findall(README.read_text())}
    assert set(PAGES) - {README} <= linked


@pages
def test_every_command_exists_and_takes_its_options(page):
    for command in commands(page):
        for module in _MODULE.findall(command):
            file = Path(*module.split(".")).with_suffix(".py")
            assert file.is_file(), f"{page}: python -m {module}"
            for option in options(command):
                assert is_option(option, file), f"{page}: {module} {option}"


@pages
def test_every_make_target_exists(page):
    makefile = Path("Makefile").read_text()
    for command in commands(page):
        for target in re.findall(r"\bmake ([a-z0-9-]+)\b", command):
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"{page}: make {target}"


@pages
def test_every_setting_exists(page):
    for key in settings(page):
        assert key in KEYS, f"{page}: {key}"


@pages
def test_every_yaml_example_holds_settings(page):
    for block in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        named = {key for key in dotted(yaml.safe_load(block)) if key != "extends"}
        assert named <= KEYS, f"{page}: {named - KEYS}"


def anchors(page: Path) -> set[str]:
    """Anchors of the page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_BLOCK.sub("", page.read_text()))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> Iterator[str]:
    """Every line of code of a page, without comments; what goes on over several lines is one."""
    text = page.read_text()
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.partition(" #")[0]
    yield from _CODE.findall(_BLOCK.sub("", text))


def options(command: str) -> list[str]:
    """Names of the command's own options, with underscores."""
    return [name.replace("-", "_") for name in re.findall(r"--([a-z][\w-]*)", _MODULE.split(command)[-1])]


def is_option(name: str, module: Path) -> bool:
    """Whether the source of a command names the option: as a parameter, or for argparse."""
    source = module.read_text()
    plain = name.removeprefix("no_")
    parameter = {"set": "overrides"}.get(plain, plain)
    return re.search(rf"\b{parameter}: |--{plain.replace('_', '[-_]')}\b", source) is not None


def settings(page: Path) -> set[str]:
    """Dotted keys in the page's code, earlier names and files apart."""
    text = page.read_text()
    code = "\n".join([*_BLOCK.findall(text), *_CODE.findall(_BLOCK.sub("", text))])
    return {key for key in _KEY.findall(code) if not _FILE.search(key)} - EARLIER_KEYS


def dotted(data: dict[str, object], prefix: str = "") -> Iterator[str]:
    """Dotted keys of every value of nested maps."""
    for name, value in data.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


KEYS = {".".join(leaf.key.split(".")[:depth]) for leaf in LEAVES for depth in range(1, leaf.key.count(".") + 2)}
