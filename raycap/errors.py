"""All errors that raycap raises, in one tree.

    RaycapError                 a one-line message for the user, and an exit code
    ├── ConfigError        2    a wrong setting, option or address
    ├── StorageError       1    a store refused or could not be reached
    │   ├── ObjectNotFound      there is no object at that address
    │   ├── ObjectForbidden     the object exists, but access to it is denied
    │   ├── BucketNotFound      there is no bucket of that name
    │   └── TransientError      throttled, timed out or disconnected: a retry may succeed
    ├── DatasetError       1    an input or output file is missing or damaged
    ├── ModelError         1    a model cannot be found, loaded or run
    ├── RunConflict        1    the output belongs to another run, or another writer holds it
    ├── RunStopped         1    a run ended before every image had its row
    └── EditConflict       1    somebody else has edited the caption (`edits/writing.py`)

    ImageError                  one image failed: recorded in its row, never ends a run

Exit codes: 0 complete; 1 stopped; 2 wrong usage or settings; 3 complete, with more failed images
than `engine.max_failed_share` allows.
"""

from enum import StrEnum

EXIT_COMPLETE = 0
EXIT_STOPPED = 1
EXIT_USAGE = 2
EXIT_TOO_MANY_FAILED = 3


class RaycapError(Exception):
    """An error whose message says in one line what failed, where, and what the user can do.

    Attributes:
        uri: the address that the error is about, if it is about one.
        setting: the name of the setting to change, if there is one, such as `train.lr`.
    """

    exit_code = EXIT_STOPPED

    def __init__(
        self, *arguments: object, uri: str | None = None, setting: str | None = None
    ) -> None:
        super().__init__(*arguments)
        self.uri = uri
        self.setting = setting


class ConfigError(RaycapError):
    """A wrong setting, option or address."""

    exit_code = EXIT_USAGE


class StorageError(RaycapError):
    """A store refused a request or could not be reached."""


class DatasetError(RaycapError):
    """An input or output file is missing or damaged."""


class ModelError(RaycapError):
    """A model cannot be found, loaded or run."""


class RunConflict(RaycapError):
    """The output belongs to another run, or another writer holds it."""


class RunStopped(RaycapError):
    """A run ended before every image had its row; the same command continues it."""


class ErrorCode(StrEnum):
    """The closed list of reasons why an image has no caption (column `error_code`)."""

    # Permanent: the image itself is the problem, and a retry cannot help unless it changes.
    DECODE_FAILED = "decode_failed"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TOO_LARGE = "too_large"
    EMPTY = "empty"
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    MODEL_REJECTED = "model_rejected"
    TEXT_FAILED = "text_failed"
    # Permanent: the model's answer is no caption. `answers` decides which of these fail a row; in
    # an answer that is kept nevertheless, the code is its flag.
    TRUNCATED = "truncated"
    REFUSED = "refused"
    EMPTY_ANSWER = "empty_answer"
    REASONING_ONLY = "reasoning_only"
    REPEATED = "repeated"
    COPIED_PROMPT = "copied_prompt"
    WRONG_TYPE = "wrong_type"
    WRONG_LANGUAGE = "wrong_language"
    # Permanent: the prompt has a field that has no value for this image.
    NO_CONTEXT = "no_context"
    # Only while a run goes on (`engine.deduplicate`): the caption of an image with the same bytes
    # is awaited. The run replaces it before it ends.
    AWAITS_ORIGINAL = "awaits_original"
    # Transient: the image could not be fetched; `--retry-failed` retries it.
    EXPIRED = "expired"
    TIMEOUT = "timeout"
    THROTTLED = "throttled"
    NETWORK = "network"
    SERVER_ERROR = "server_error"

    @property
    def is_transient(self) -> bool:
        """Whether a retry may succeed."""
        return self in TRANSIENT_CODES


TRANSIENT_CODES = frozenset(
    {
        ErrorCode.EXPIRED,
        ErrorCode.TIMEOUT,
        ErrorCode.THROTTLED,
        ErrorCode.NETWORK,
        ErrorCode.SERVER_ERROR,
    }
)


ANSWER_CODES = (
    ErrorCode.TRUNCATED,
    ErrorCode.REFUSED,
    ErrorCode.EMPTY_ANSWER,
    ErrorCode.REASONING_ONLY,
    ErrorCode.REPEATED,
    ErrorCode.COPIED_PROMPT,
    ErrorCode.WRONG_TYPE,
    ErrorCode.WRONG_LANGUAGE,
)
"""Codes of bad answers of a model."""


class ImageError(Exception):
    """One image that cannot be captioned; `code` is the reason."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @classmethod
    def of(cls, error: "ObjectNotFound | ObjectForbidden | TransientError") -> "ImageError":
        """Return the reason why an image cannot be read."""
        return cls(error.code, str(error))


class ObjectNotFound(StorageError):
    """There is no object at that address."""

    code = ErrorCode.NOT_FOUND


class ObjectForbidden(StorageError):
    """Access to the object is denied: by its permissions or encryption key, or it is archived.

    Other objects of the same store may be readable, unlike after any other StorageError.
    """

    code = ErrorCode.FORBIDDEN


class BucketNotFound(StorageError):
    """There is no bucket of that name."""


class TransientError(StorageError):
    """A request that was throttled, timed out or disconnected.

    `code` is the error code of the image's row, if the request was for an image.
    """

    def __init__(self, code: ErrorCode, message: str, *, retry_after_s: float | None = 0.0) -> None:
        """Describe the failed request.

        Args:
            code: The reason.
            message: What failed.
            retry_after_s: Seconds that the server asks to wait before the next request; None if
                another request in this run is pointless.
        """
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message


UNREADABLE = (ObjectNotFound, ObjectForbidden, TransientError)
"""Errors of reading an image that concern only this image: `ImageError.of` makes its row."""
