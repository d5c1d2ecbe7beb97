"""What went wrong between this process and an S3 server: whether it may pass by itself, and a sentence for a person."""

from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
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
    SSLError,
    SSOError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError, S3UploadFailedError
from urllib3.exceptions import HTTPError

from core.errors import InputError

# Everything that boto3, s3transfer and urllib3 raise of their own.
S3_ERRORS = (
    BotoCoreError,
    ClientError,
    HTTPError,
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
_NO_TLS = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "hostname")
_NO_CREDENTIALS = (
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
)
_REGION_CODES = {
    "301",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
}
_CREDENTIAL_CODES = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "UnrecognizedClientException",
}


def code_of(error: BaseException) -> str:
    """The server's word for its refusal, such as NoSuchKey; empty if it did not answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return is_passing_answer(status, code_of(error))
    if isinstance(error, SSLError) and any(word in str(error) for word in _NO_TLS):
        return False
    if isinstance(error, AttributeError):
        # botocore stumbles over its own checksum of the body of a 5xx answer.
        return "StreamingChecksumBody" in str(error)
    return isinstance(error, _PASSING)


def is_passing_answer(status: int, code: str) -> bool:
    """Whether an answer with this HTTP status and S3 error code may be another one a little later."""
    return status in _PASSING_STATUS or code in _PASSING_CODES


def refusal(error: Exception, bucket: str, endpoint: str) -> InputError:
    """A sentence for an error that does not pass by itself. No word of the server's is in it: it may hold keys."""
    where, code = f"bucket {bucket} at {endpoint}", code_of(error)
    if isinstance(error, _NO_CREDENTIALS):
        told = "no S3 credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a valid AWS_PROFILE"
        return InputError(f"{where}: {told}")
    if isinstance(error, SSLError):
        return InputError(f"{where}: no trusted TLS connection: check http or https in its address, and AWS_CA_BUNDLE")
    if isinstance(error, NoRegionError):
        return InputError(f"{where}: no region is set: set AWS_DEFAULT_REGION to the bucket's")
    if isinstance(error, ParamValidationError) or code == "InvalidBucketName":
        return InputError(f"{bucket!r} is no valid bucket name, or a name in it is too long: correct the s3:// address")
    if code == "NoSuchBucket":
        return InputError(f"{where}: there is no such bucket: make it, or correct the s3:// address")
    if code in _CREDENTIAL_CODES:
        told = "the server refuses the credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return InputError(f"{where}: {told} ({code})")
    if code in _REGION_CODES:
        return InputError(f"{where}: the bucket is in another region: set AWS_DEFAULT_REGION to its own ({code})")
    if code == "RequestTimeTooSkewed":
        return InputError(f"{where}: the clock of this machine is wrong: set it ({code})")
    if isinstance(error, ClientError):
        return _refused_request(error, where)
    return InputError(f"{where}: a request failed with {type(error).__name__}: check the address and the network")


def _refused_request(error: ClientError, where: str) -> InputError:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if status == 403:
        return InputError(
            f"{where}: access denied to {error.operation_name}: allow these credentials to list the bucket and to get, "
            "put and delete objects"
        )
    return InputError(f"{where}: the server refuses {error.operation_name} with {code_of(error)} (HTTP {status})")
