"""Models on the Hugging Face hub, by name: their folder in its cache, after a download if there is none yet."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from core.runtime.errors import InputError, first_line

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FILES = ["*.json", "*.safetensors"]
_SUFFIXES = (".pt", ".safetensors", ".yaml", ".json")


def is_hub_name(path: str) -> bool:
    """Whether `path` is written as ORGANISATION/MODEL and nothing of this machine: no file, and no such folder."""
    return bool(_NAME.fullmatch(path)) and not path.endswith(_SUFFIXES) and not Path(path).parent.exists()


def hub_folder(name: str) -> str:
    """The folder of the model `name` in the hub's cache; InputError if it is not there and cannot be fetched."""
    try:
        return str(snapshot_download(name, allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{name} is no folder of this machine, and the Hugging Face hub did not give a model of this name "
            f"({first_line(error)}): give a path, or download the model's folder and name that"
        ) from None
