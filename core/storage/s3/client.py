"""The boto3 client of a bucket. Settings from the config, the environment and AWS's files are checked first."""

import os
import ssl
from pathlib import Path
from typing import Any

import boto3
from botocore.client import BaseClient
from botocore.config import Config
from botocore.credentials import Credentials

from core.inputs.locations import address
from core.runtime.errors import InputError
from core.storage.s3.errors import S3_ERRORS, refusal
from core.storage.store import ArtifactsSection

_CONNECT_SECONDS, _READ_SECONDS = 5, 60
# Places where people write keys, by botocore's names. Other keys come from servers and programs.
_WRITTEN = {
    "env": "of the environment",
    "shared-credentials-file": "of the AWS credentials file",
    "config-file": "of the AWS configuration file",
}


# Servers other than AWS have the bucket in the path only, and often do not know the newer checksums.
_OTHER_SERVERS = {
    "s3": {"addressing_style": "path"},
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}


def make_client(bucket: str, artifacts: ArtifactsSection, connections: int) -> BaseClient:
    """A client for the bucket; InputError for an invalid setting of ours or of AWS."""
    try:
        # A session is not thread-safe, so each client has its own.
        session = boto3.session.Session()
        _require_credentials(session)
        _require_region(session)
        return _client(session, artifacts, connections)
    except S3_ERRORS as error:
        raise refusal(error, bucket, artifacts.endpoint_url or "AWS") from None
    except (ValueError, AttributeError, TypeError, OSError) as error:
        # botocore parses the values of AWS's variables and files only now, and runs programs that they name.
        raise _invalid_setting(error, artifacts) from None


def endpoint_setting(client: BaseClient, artifacts: ArtifactsSection) -> str | None:
    """The setting that names the server of the client; None for AWS, which needs none."""
    if artifacts.endpoint_url is not None:
        return "artifacts.endpoint_url"
    return None if _is_aws(client.meta.endpoint_url) else _setting_outside()


def _client(session: boto3.session.Session, artifacts: ArtifactsSection, connections: int) -> BaseClient:
    endpoint, setting = artifacts.endpoint_url, "artifacts.endpoint_url"
    client: BaseClient
    if endpoint is None or _is_aws(endpoint):
        client = session.client("s3", endpoint_url=endpoint, config=_config(connections, {}))
        if _is_aws(client.meta.endpoint_url):
            return client
        endpoint, setting = client.meta.endpoint_url, _setting_outside()
    _require_address(endpoint, setting)
    _require_certificates(session, endpoint)
    region = session.region_name or "us-east-1"
    client = session.client("s3", region, endpoint_url=endpoint, config=_config(connections, _OTHER_SERVERS))
    return client


def _invalid_setting(error: Exception, artifacts: ArtifactsSection) -> InputError:
    """The error for a setting of AWS that botocore cannot use; it shows no value but the endpoint's."""
    _, is_endpoint, url = str(error).partition("Invalid endpoint: ")
    if not is_endpoint:
        return InputError(
            "the AWS settings of this machine cannot be used: check the AWS_ variables and the files config and "
            f"credentials in ~/.aws ({type(error).__name__})"
        )
    setting = "artifacts.endpoint_url" if artifacts.endpoint_url else _setting_outside()
    _require_address(url, setting)
    return InputError(
        f"{setting} {url!r} names a host that boto3 refuses: use a name of letters, digits and '-' between dots"
    )


def _is_aws(endpoint: str) -> bool:
    return ".amazonaws.com" in endpoint


def _setting_outside() -> str:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    return next((name for name in names if os.environ.get(name)), "endpoint_url of the AWS configuration file")


def _require_address(url: str, setting: str) -> None:
    try:
        address(url)
    except ValueError as error:
        raise InputError(f"{setting} {error}") from None


def _require_credentials(session: boto3.session.Session) -> None:
    """InputError for keys that cannot be sent, without showing them. Missing keys are noticed later."""
    token_file = os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE")
    if token_file is not None and not os.access(token_file, os.R_OK):
        raise InputError(f"AWS_WEB_IDENTITY_TOKEN_FILE {token_file} cannot be read: correct it, or unset it")
    try:
        found = session.get_credentials()
    except FileNotFoundError as error:
        raise InputError(
            f"the program {error.filename} that credential_process of the AWS configuration names does not exist"
        ) from None
    if not isinstance(found, Credentials) or found.method not in _WRITTEN:
        return
    values = {
        "AWS_ACCESS_KEY_ID": found.access_key,
        "AWS_SECRET_ACCESS_KEY": found.secret_key,
        "AWS_SESSION_TOKEN": found.token,
    }
    for name, value in values.items():
        if value and not all("!" <= character <= "~" for character in value):
            named = name if found.method == "env" else name.lower()
            raise InputError(
                f"{named} {_WRITTEN[found.method]} contains a space, a line break or another character that "
                "keys do not have: set it again"
            )


def _require_region(session: boto3.session.Session) -> None:
    # botocore accepts a line break at the end, but no request can be sent with it.
    if session.region_name and session.region_name != session.region_name.strip():
        raise InputError(f"the AWS region {session.region_name!r} holds a line break: set AWS_DEFAULT_REGION again")


def _require_certificates(session: boto3.session.Session, endpoint: str) -> None:
    bundle = session._session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    if not endpoint.startswith("https") or not bundle:
        return
    try:
        folder = Path(bundle).is_dir()
        ssl.create_default_context(cafile=None if folder else bundle, capath=bundle if folder else None)
    except OSError:  # ssl's errors are among them
        raise InputError(f"AWS_CA_BUNDLE {bundle} is not a file of certificates: correct it, or unset it") from None


def _config(connections: int, options: dict[str, Any]) -> Config:
    return Config(
        signature_version="s3v4",
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        # `RetryPolicy` repeats requests.
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=connections,
        tcp_keepalive=True,
        **options,
    )
