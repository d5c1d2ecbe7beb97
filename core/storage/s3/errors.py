"""Errors between this process and an S3 server: whether they are transient, and a sentence for the user."""

import re
from urllib.request import getproxies

from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    ConfigNotFound,
    ConfigParseError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoAuthTokenError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError, S3UploadFailedError
from urllib3.exceptions import HTTPError

from core.runtime.errors import InputError
from core.storage.s3.answers import NotS3Error

# All errors that boto3, s3transfer and urllib3 define.
S3_ERRORS = (
    BotoCoreError,
    ClientError,
    HTTPError,
    NotS3Error,
    ResponseParserError,
    RetriesExceededError,
    S3DownloadFailedError,
    S3UploadFailedError,
)

_TRANSIENT = (
    HTTPClientError,  # the connection was refused, dropped, silent, or broken off during an answer
    BotoConnectionError,
    ConnectionError,
    TimeoutError,
    HTTPError,
    IncompleteReadError,
    ChecksumError,
    FlexibleChecksumError,
    ResponseParserError,  # the answer was cut off
    RetriesExceededError,
    S3DownloadFailedError,  # the object was replaced while it was read
)
_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
_TRANSIENT_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
# A TLS connection that broke off. All other TLS errors are permanent.
_BROKEN_OFF = re.compile("EOF|timed out|reset|closed", re.IGNORECASE)
_NO_CREDENTIALS = (
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
_REGION_CODES = {
    "301",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
}
_CREDENTIAL_CODES = {
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
# ExpiredToken, ExpiredTokenException, RequestExpired, TokenRefreshRequired
_SESSION_ENDED = re.compile("expired|refreshrequired", re.IGNORECASE)
_OF_A_ROLE = re.compile("RoleArn|RoleSessionName|WebIdentityToken")
_SESSION_ERRORS = (SSOError, TokenRetrievalError)
# QuotaExceeded, XMinioStorageFull, XMinioAdminBucketQuotaExceeded, InsufficientStorage, ServiceQuotaExceededException
_FULL = re.compile(
    "quota|storage_?full|disk_?full|insufficient_?(storage|capacity)|(storage|capacity)_?(cap|limit)|no_?space",
    re.IGNORECASE,
)
_FULL_STATUS = 507


def code_of(error: BaseException) -> str:
    """The error code of the server, such as NoSuchKey; empty if it did not answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return is_transient_answer(status, code_of(error))
    if isinstance(error, SSLError):
        return bool(_BROKEN_OFF.search(str(error)))
    if isinstance(error, HTTPClientError) and isinstance(error.kwargs.get("error"), ValueError):
        return False  # the request or the answer is not HTTP
    if isinstance(error, AttributeError):
        # botocore fails on its own checksum of the body of a 5xx answer.
        return "StreamingChecksumBody" in str(error)
    return isinstance(error, _TRANSIENT)


def is_transient_answer(status: int, code: str) -> bool:
    """Whether the same request may succeed after an answer with this HTTP status and S3 error code."""
    if _FULL.search(code):
        return False  # whatever the status is: somebody has to free space
    return status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES


def refusal(error: Exception, bucket: str, endpoint: str, setting: str | None = None) -> InputError:
    """The InputError for an error that is not transient. It repeats nothing that the server said, which may hold keys.

    `setting` is the setting that names the endpoint, such as artifacts.endpoint_url; None for AWS.
    """
    where, code = f"bucket {bucket} at {endpoint}", code_of(error)
    if isinstance(error, NotS3Error):
        remedy = f"set {setting} to {error.advice}" if setting else "check the network, and any proxy"
        return InputError(f"{where}: this is not an S3 server, {error}: {remedy}")
    if isinstance(error, ConfigParseError | ConfigNotFound):
        return InputError(f"{error.kwargs['path']} is not a valid AWS configuration file: correct or remove it")
    if isinstance(error, _SESSION_ERRORS) or _SESSION_ENDED.search(code):
        problem = "the session of the credentials has ended: set a new AWS_SESSION_TOKEN with its keys, or log in again"
        return InputError(f"{where}: {problem} ({code or 'aws sso login'})")
    if isinstance(error, _NO_CREDENTIALS):
        problem = "no S3 credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a valid AWS_PROFILE"
        return InputError(f"{where}: {problem}")
    if isinstance(error, CredentialRetrievalError):
        provider = error.kwargs["provider"]  # not its output, which may hold keys
        return InputError(f"{where}: the AWS configuration's {provider} gives no credentials: correct it and run again")
    if isinstance(error, SSLError):
        return InputError(f"{where}: {_tls_problem(str(error))}")
    if isinstance(error, NoRegionError):
        return InputError(f"{where}: no region is set: set AWS_DEFAULT_REGION to the bucket's")
    if (isinstance(error, ParamValidationError) and not _OF_A_ROLE.search(str(error))) or code == "InvalidBucketName":
        return InputError(f"{bucket!r} is not a valid bucket name, or a name below it is too long: correct it")
    if isinstance(error, ClientError):
        return _refused_request(error, where)
    if isinstance(error, HTTPClientError):
        proxies = ", and HTTP_PROXY and HTTPS_PROXY" if getproxies() else ""
        problem = f"this is not an S3 server, its answer is not HTTP: check {setting or 'the network'}{proxies}"
        return InputError(f"{where}: {problem}")
    if isinstance(error, BotoCoreError):
        # No request was made. botocore names the setting and its value, and never shows keys.
        return InputError(f"the AWS settings of this machine are refused ({error}): correct the AWS_ variable or file")
    return InputError(f"{where}: a request failed with {type(error).__name__}: check the address and the network")


def silence(error: Exception, setting: str | None) -> str:
    """What to say if no S3 server ever answered at the address."""
    check = f"check {setting} and the network" if setting else "check the network"
    if isinstance(error, ProxyConnectionError):
        return "the proxy before it does not answer: check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
    if re.search("resolve|getaddrinfo|not known", str(getattr(error, "kwargs", {}).get("error", ""))):
        return f"no S3 server answers there, its host name is unknown: {check}"
    return f"no S3 server answers there: {check}"


def _refused_request(error: ClientError, where: str) -> InputError:
    code, status = code_of(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if _FULL.search(code) or status == _FULL_STATUS:
        return InputError(f"{where}: its space or quota is used up: free some, or raise the quota ({code})")
    if code == "NoSuchBucket":
        return InputError(f"{where}: there is no such bucket: create it, or correct the s3:// address")
    if code in _CREDENTIAL_CODES:
        problem = "the server refuses the credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return InputError(f"{where}: {problem} ({code})")
    if code in _REGION_CODES:
        return InputError(f"{where}: the bucket is in another region: set AWS_DEFAULT_REGION to its own ({code})")
    if code == "RequestTimeTooSkewed":
        return InputError(f"{where}: the clock of this machine is wrong: set it ({code})")
    if status == 403:
        return InputError(
            f"{where}: access denied to {error.operation_name}: allow these credentials to list the bucket and to get, "
            "put and delete objects"
        )
    return InputError(f"{where}: the server refuses {error.operation_name} with {code} (HTTP {status})")


def _tls_problem(error: str) -> str:
    if "hostname" in error.lower() or "ip address mismatch" in error.lower():
        return "its TLS certificate is for another host: use the name in the certificate"
    if "expired" in error or "not yet valid" in error:
        return "its TLS certificate is not valid today: renew it, or set this machine's clock"
    if "CERTIFICATE_VERIFY_FAILED" in error:
        return "no trusted TLS connection: set AWS_CA_BUNDLE to the file of the authority that signed its certificate"
    return "no TLS connection: if the server speaks http, write http:// in its address"
