"""What went wrong between this process and an S3 server: whether it may pass by itself, and a sentence for a person."""

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

# Everything that boto3, s3transfer and urllib3 raise of their own.
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

_PASSING = (
    HTTPClientError,  # the connection: refused, dropped, silent, or broken off inside an answer
    BotoConnectionError,
    ConnectionError,
    TimeoutError,
    HTTPError,
    IncompleteReadError,
    ChecksumError,
    FlexibleChecksumError,
    ResponseParserError,  # an answer cut off
    RetriesExceededError,
    S3DownloadFailedError,  # the file was replaced while it was read
)
_PASSING_STATUS = {408, 429, 500, 502, 503, 504}
_PASSING_CODES = {
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
# Of a TLS connection that broke off; every other error of TLS stays what it is.
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
    """The server's word for its refusal, such as NoSuchKey; empty if it did not answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return is_transient_answer(status, code_of(error))
    if isinstance(error, SSLError):
        return bool(_BROKEN_OFF.search(str(error)))
    if isinstance(error, HTTPClientError) and isinstance(error.kwargs.get("error"), ValueError):
        return False  # what is sent, or came, is no HTTP
    if isinstance(error, AttributeError):
        # botocore stumbles over its own checksum of the body of a 5xx answer.
        return "StreamingChecksumBody" in str(error)
    return isinstance(error, _PASSING)


def is_transient_answer(status: int, code: str) -> bool:
    """Whether an answer with this HTTP status and S3 error code may be another one a little later."""
    if _FULL.search(code):
        return False  # whatever its status: somebody has to free space
    return status in _PASSING_STATUS or code in _PASSING_CODES


def refusal(error: Exception, bucket: str, endpoint: str, setting: str | None = None) -> InputError:
    """A sentence for an error that does not pass by itself. No word of the server's is in it: it may hold keys.

    `setting` is what names the endpoint, such as artifacts.endpoint_url; None for AWS.
    """
    where, code = f"bucket {bucket} at {endpoint}", code_of(error)
    if isinstance(error, NotS3Error):
        mend = f"set {setting} to {error.advice}" if setting else "check the network, and any proxy"
        return InputError(f"{where}: no S3 server is there, {error}: {mend}")
    if isinstance(error, ConfigParseError | ConfigNotFound):
        return InputError(f"{error.kwargs['path']} is no valid AWS configuration file: mend or remove it")
    if isinstance(error, _SESSION_ERRORS) or _SESSION_ENDED.search(code):
        told = "the session of the credentials has ended: set a new AWS_SESSION_TOKEN with its keys, or log in again"
        return InputError(f"{where}: {told} ({code or 'aws sso login'})")
    if isinstance(error, _NO_CREDENTIALS):
        told = "no S3 credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a valid AWS_PROFILE"
        return InputError(f"{where}: {told}")
    if isinstance(error, CredentialRetrievalError):
        provider = error.kwargs["provider"]  # without what it wrote, which may be keys
        return InputError(f"{where}: the AWS configuration's {provider} gives no credentials: mend it and run again")
    if isinstance(error, SSLError):
        return InputError(f"{where}: {_no_tls(str(error))}")
    if isinstance(error, NoRegionError):
        return InputError(f"{where}: no region is set: set AWS_DEFAULT_REGION to the bucket's")
    if (isinstance(error, ParamValidationError) and not _OF_A_ROLE.search(str(error))) or code == "InvalidBucketName":
        return InputError(f"{bucket!r} is no valid bucket name, or a name in it is too long: correct the s3:// address")
    if isinstance(error, ClientError):
        return _refused_request(error, where)
    if isinstance(error, HTTPClientError):
        proxies = ", and HTTP_PROXY and HTTPS_PROXY" if getproxies() else ""
        told = f"no S3 server is there, its answer is no HTTP: check {setting or 'the network'}{proxies}"
        return InputError(f"{where}: {told}")
    if isinstance(error, BotoCoreError):
        # No request was made. What botocore says of a setting is its name and value; keys are none of these.
        return InputError(f"the AWS settings of this machine are refused ({error}): mend the AWS_ variable or file")
    return InputError(f"{where}: a request failed with {type(error).__name__}: check the address and the network")


def silence(error: Exception, setting: str | None) -> str:
    """Why no S3 server answers where none ever did, and what to check."""
    check = f"check {setting} and the network" if setting else "check the network"
    if isinstance(error, ProxyConnectionError):
        return "the proxy before it does not answer: check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
    if re.search("resolve|getaddrinfo|not known", str(getattr(error, "kwargs", {}).get("error", ""))):
        return f"no S3 server answers there, its host's name is not known: {check}"
    return f"no S3 server answers there: {check}"


def _refused_request(error: ClientError, where: str) -> InputError:
    code, status = code_of(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if _FULL.search(code) or status == _FULL_STATUS:
        return InputError(f"{where}: its space or quota is used up: free some, or raise the quota ({code})")
    if code == "NoSuchBucket":
        return InputError(f"{where}: there is no such bucket: make it, or correct the s3:// address")
    if code in _CREDENTIAL_CODES:
        told = "the server refuses the credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return InputError(f"{where}: {told} ({code})")
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


def _no_tls(error: str) -> str:
    if "hostname" in error.lower() or "ip address mismatch" in error.lower():
        return "its TLS certificate is of another host: write the name that the certificate has"
    if "expired" in error or "not yet valid" in error:
        return "its TLS certificate is not valid today: renew it, or set this machine's clock"
    if "CERTIFICATE_VERIFY_FAILED" in error:
        return "no trusted TLS connection: set AWS_CA_BUNDLE to the file of the authority that signed its certificate"
    return "no TLS connection: if the server speaks http, write http:// in its address"
