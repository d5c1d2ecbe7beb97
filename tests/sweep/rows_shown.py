"""Secrets and control characters in what is given."""

from collections.abc import Callable
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from core.config.loading import load_config
from core.runtime.errors import InputError
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, artifacts_of_options
from flows.prefect_api import configured_server
from tests.sweep.ground import Ground, Row

TITLE = "Secrets and control characters"

SECRET = "hunter2hunter2"
_USER, _SIGNED = "a user or password", "a signature, token or key"


def _unseen(reader: Callable[[Ground], Any], *environment: tuple[str, str]) -> Callable[[Ground], Any]:
    """The reader, whose line may not repeat the secret."""

    def give(ground: Ground) -> Any:
        with pytest.MonkeyPatch.context() as patched:
            for name, value in environment:
                patched.setenv(name, value)
            try:
                return reader(ground)
            except InputError as error:
                assert SECRET not in str(error), "the secret is shown"
                raise

    return give


def _set(setting: str) -> Callable[[Ground], Any]:
    return _unseen(lambda ground: load_config(ground.config_path, [setting]))


def _opened(place: str) -> Callable[[Ground], Any]:
    return _unseen(lambda ground: open_store(place, ArtifactsSection()))


def _in_the_environment(name: str) -> Callable[[Ground], Any]:
    credentials = [("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y"), ("AWS_DEFAULT_REGION", "us-east-1")]
    return _unseen(
        lambda ground: open_store(f"s3://{name.lower().replace('_', '-')}/p", ArtifactsSection()).read("a.json"),
        *credentials,
        (name, f"http://user:{SECRET}@127.0.0.1:9"),
    )


def _prefect(url: str) -> Callable[[Ground], Any]:
    def read(ground: Ground) -> Any:
        with temporary_settings({PREFECT_API_URL: url}):
            return configured_server()

    return _unseen(read)


_PLACES = {
    f"s3://user:{SECRET}@bucket/p": _USER,
    f"s3://user:a/{SECRET}@bucket/p": _USER,
    f"https://bucket/p?X-Amz-Signature={SECRET}": _SIGNED,
    f"s3://bucket/p?X-Amz-Security-Token={SECRET}": _SIGNED,
    f"https://account/p?sv=1&sig={SECRET}": _SIGNED,
    f"s3://bucket/p?token={SECRET}": _SIGNED,
}
_ADDRESSES = {
    f"http://user:{SECRET}@host:9000": _USER,
    f"http://{SECRET}@host:9000": _USER,
    f"http://user:{SECRET}/x@host": _USER,
    f"user:{SECRET}@host:9000": _SIGNED,
    f"http://host/?X-Amz-Credential={SECRET}": _SIGNED,
    "localhost:9000": "not the address of a server",
    "http://host:99999": "not the address of a server",
    "http://": "not the address of a server",
    "ftp://host": "not the address of a server",
    "http://ho st": "not the address of a server",
}


def _given(text: str) -> str:
    return text.replace(SECRET, "PASSWORD")


ROWS = [
    *(
        Row("artifacts.root", _given(text), _set(f"artifacts.root={text}"), ("artifacts.root", said))
        for text, said in _PLACES.items()
    ),
    *(
        Row("dataset.manifest", _given(text), _set(f"dataset.manifest={text}"), ("dataset.manifest", said))
        for text, said in _PLACES.items()
    ),
    *(Row("artefact folder", _given(text), _opened(text), (said,)) for text, said in _PLACES.items()),
    *(
        Row(
            "artifacts.endpoint_url",
            _given(text),
            _set(f"artifacts.endpoint_url='{text}'"),
            ("artifacts.endpoint_url", said),
        )
        for text, said in _ADDRESSES.items()
    ),
    *(
        Row(
            "--endpoint_url",
            _given(text),
            _unseen(lambda ground, text=text: artifacts_of_options(endpoint_url=text)),
            ("--endpoint_url", said),
        )
        for text, said in _ADDRESSES.items()
    ),
    Row(
        "AWS_ENDPOINT_URL",
        "http://user:PASSWORD@127.0.0.1:9",
        _in_the_environment("AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL", _USER),
    ),
    Row(
        "AWS_ENDPOINT_URL_S3",
        "http://user:PASSWORD@127.0.0.1:9",
        _in_the_environment("AWS_ENDPOINT_URL_S3"),
        ("AWS_ENDPOINT_URL", _USER),
    ),
    Row(
        "PREFECT_API_URL",
        "http://user:PASSWORD@host/api",
        _prefect(f"http://user:{SECRET}@host/api"),
        ("PREFECT_API_URL", _USER),
    ),
    Row(
        "rounds.bad_latents.dask_address",
        "tcp://user:PASSWORD@host:1",
        _set(f"rounds.bad_latents.dask_address=tcp://user:{SECRET}@host:1"),
        ("dask_address", "without user or password"),
    ),
    Row(
        "rounds.bad_latents.dask_address",
        "a port of 5,000 digits",
        _set(f"rounds.bad_latents.dask_address=tcp://h:{'9' * 5000}"),
        ("dask_address", "HOST:PORT"),
    ),
    Row(
        "--set",
        "a key with an address with a password",
        _set(f"http://user:{SECRET}@host=1"),
        ("unknown key", "***@host"),
    ),
    Row("--set", "no key, only a signed address", _set(f"https://host/?X-Amz-Signature={SECRET}"), ("unknown key",)),
    Row("config", "a key with a newline", _set("trai\nning.epochs=1"), ("trai\\nning",)),
    Row("config", "a key that clears the screen", _set("\x1b[2J=1"), ("\\x1b[2J",)),
    Row(
        "config",
        "a value of control characters",
        _set('training.device="\\e[2J\\n\\u202e"'),
        ("training.device", "\\x1b[2J"),
    ),
    Row(
        "config",
        "a value of 400,000 characters",
        _set(f"training.device={'x' * 400_000}"),
        ("training.device", "write auto, cpu"),
    ),
    Row(
        "config",
        "a path of 5,000 characters",
        _set(f"artifacts.root={'x' * 5000}"),
        ("artifacts.root", "at most 4096 characters"),
    ),
    Row(
        "config",
        "a path with a newline that is not there",
        lambda ground: load_config(ground.folder / "a\nb.yaml"),
        ("a\\nb.yaml does not exist",),
    ),
]
