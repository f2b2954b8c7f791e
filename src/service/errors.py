"""Every error a caller can be told: its reason, message and metadata. Knows no gRPC and no SQL.

A class's ``reason`` is an entry of ``gatelodge.errors.v1.Reason`` without its prefix. The classes right under
`DomainError` are the kinds; ``rpc/status.py`` maps each kind to a status code, found by MRO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that breaks a rule."""

    field: str
    """Path in the request, ``user.email`` style."""
    description: str
    """What is wrong and what to do, without the value itself."""


class DomainError(Exception):
    """Something went wrong that the caller is told about. `metadata` holds the message's dynamic parts."""

    reason: ClassVar[str]

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata


class CannotRun(Exception):
    """The process cannot do what it was started for. Told to operators, never to callers: why, and what to do."""


# --- kinds: one per status code ------------------------------------------------------------------------------------


class InvalidArgument(DomainError):
    """The request itself is wrong, whatever the state of the system."""

    def __init__(self, message: str, violations: tuple[FieldViolation, ...] = (), **metadata: str) -> None:
        super().__init__(message, **metadata)
        self.violations = violations


class Unauthenticated(DomainError):
    """Who calls is not known."""


class PermissionDenied(DomainError):
    """Who calls is known and may not."""


class NotFound(DomainError):
    """There is no such thing, or none the caller may see."""


class AlreadyExists(DomainError):
    """There is such a thing already."""


class Aborted(DomainError):
    """A concurrent change won; read again and retry."""


class OutOfRange(DomainError):
    """The request asks for what lies beyond the data that is kept."""


class FailedPrecondition(DomainError):
    """The state of the system does not allow it. `subject` names what must change first."""

    def __init__(self, message: str, subject: str, **metadata: str) -> None:
        super().__init__(message, **metadata)
        self.subject = subject


class Retryable(DomainError):
    """The same call may succeed after `retry_after` seconds. Nothing was done, unless the error says otherwise."""

    def __init__(self, message: str, retry_after: float = 1.0, **metadata: str) -> None:
        super().__init__(message, **metadata)
        self.retry_after = retry_after


class ResourceExhausted(Retryable):
    """A limit of the server or of the caller's is reached."""


class Unavailable(Retryable):
    """The service, or something it needs, is away for now."""


class TimedOut(DomainError):
    """The deadline passed."""


class Unimplemented(DomainError):
    """There is no such operation."""


class Internal(DomainError):
    """A fault of the server. Its text never says more than that."""


# --- the errors ------------------------------------------------------------------------------------------------------


class InvalidFields(InvalidArgument):
    """One or more fields break a rule; all of them are listed."""

    reason = "INVALID_FIELDS"

    def __init__(self, *violations: FieldViolation) -> None:
        names = ", ".join(sorted({v.field for v in violations}))
        super().__init__(f"invalid fields: {names}", violations)


class MalformedRequest(InvalidArgument):
    """The bytes are not a message of the method's type."""

    reason = "MALFORMED_REQUEST"

    def __init__(self) -> None:
        super().__init__("the request could not be decoded as a message of this method's type")


class InvalidPageToken(InvalidArgument):
    """A page token that is not ours, or is for another request."""

    reason = "INVALID_PAGE_TOKEN"

    def __init__(self) -> None:
        violation = FieldViolation("page_token", "must come from the page before, with the other arguments unchanged")
        super().__init__("the page token is not valid for this request: begin with the first page", (violation,))


class CursorInvalid(InvalidArgument):
    """A cursor that is not ours, or from another database."""

    reason = "CURSOR_INVALID"

    def __init__(self) -> None:
        violation = FieldViolation("cursor", "must come from a message of this stream")
        super().__init__("the cursor is not valid: start at latest or earliest", (violation,))


class CursorPruned(OutOfRange):
    """A cursor after which events are gone."""

    reason = "CURSOR_PRUNED"

    def __init__(self) -> None:
        super().__init__("events after the cursor are no longer kept: read the state anew and start at latest")


class CredentialsMissing(Unauthenticated):
    """A credential is needed and none came."""

    reason = "CREDENTIALS_MISSING"

    def __init__(self) -> None:
        super().__init__("a credential is required: send the metadata 'authorization: Bearer <access token>'")


class CredentialsInvalid(Unauthenticated):
    """A credential came and is no good. One message for every way it can be bad."""

    reason = "CREDENTIALS_INVALID"

    def __init__(self) -> None:
        super().__init__("the credential is not valid: log in again")


class LoginFailed(Unauthenticated):
    """Login refused: unknown, wrong, locked and disabled look alike."""

    reason = "LOGIN_FAILED"

    def __init__(self) -> None:
        super().__init__("the email or the password is wrong, or the account may not log in")


class RefreshTokenInvalid(Unauthenticated):
    """The refresh token is no good. One message for every way it can be bad."""

    reason = "REFRESH_TOKEN_INVALID"

    def __init__(self) -> None:
        super().__init__("the refresh token is not valid: log in again")


class PasswordWrong(PermissionDenied):
    """The current password is another one."""

    reason = "PASSWORD_WRONG"

    def __init__(self) -> None:
        super().__init__("the current password is wrong")


class PermissionMissing(PermissionDenied):
    """The caller lacks `permission`."""

    reason = "PERMISSION_MISSING"

    def __init__(self, permission: str) -> None:
        super().__init__("the caller lacks a permission that this call needs", permission=permission)


class UserNotFound(NotFound):
    """No such user, or none the caller may see. The message never repeats what was asked for."""

    reason = "USER_NOT_FOUND"

    def __init__(self, **metadata: str) -> None:
        super().__init__("there is no such user", **metadata)


class SessionNotFound(NotFound):
    """The user has no such session."""

    reason = "SESSION_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("the user has no such session")


class RoleNotFound(NotFound):
    """No such role."""

    reason = "ROLE_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("there is no such role")


class SigningKeyNotFound(NotFound):
    """No such signing key."""

    reason = "SIGNING_KEY_NOT_FOUND"

    def __init__(self) -> None:
        super().__init__("there is no such signing key")


class EmailTaken(AlreadyExists):
    """Another user has the address, in its canonical form."""

    reason = "EMAIL_TAKEN"

    def __init__(self) -> None:
        super().__init__("another user has this email address")


class RoleExists(AlreadyExists):
    """There is a role of this name."""

    reason = "ROLE_EXISTS"

    def __init__(self) -> None:
        super().__init__("there is a role of this name")


class RoleBuiltIn(FailedPrecondition):
    """The role came with the service."""

    reason = "ROLE_BUILT_IN"

    def __init__(self) -> None:
        super().__init__("a built-in role cannot be changed", subject="role")


class RoleInUse(FailedPrecondition):
    """Somebody holds the role."""

    reason = "ROLE_IN_USE"

    def __init__(self) -> None:
        super().__init__("somebody holds the role: revoke it from them first", subject="role")


class LastAdministrator(FailedPrecondition):
    """Nobody else could log in and hold every permission."""

    reason = "LAST_ADMINISTRATOR"

    def __init__(self) -> None:
        super().__init__("the user is the last administrator: grant admin to another first", subject="admin")


class SigningKeyState(FailedPrecondition):
    """The key is in `state`, which does not allow it."""

    reason = "SIGNING_KEY_STATE"

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message, subject="signing_key", state=state)


class PasswordChangeRequired(FailedPrecondition):
    """The password is right, and an operator asked for a new one."""

    reason = "PASSWORD_CHANGE_REQUIRED"

    def __init__(self) -> None:
        super().__init__("a new password is required: log in again with new_password", subject="password")


class RegistrationClosed(FailedPrecondition):
    """`auth.registration` is closed."""

    reason = "REGISTRATION_CLOSED"

    def __init__(self) -> None:
        super().__init__("registration is closed: ask an administrator for an account", subject="auth.registration")


class RequestIdReused(FailedPrecondition):
    """The caller made another request under this ``request_id`` less than 24 hours ago."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self) -> None:
        super().__init__("another request was made with this request_id: make a new one", subject="request_id")


class Conflict(Aborted):
    """A race was lost after every retry; nothing was changed."""

    reason = "CONFLICT"

    def __init__(self) -> None:
        super().__init__("a concurrent change won every time: try again")


class Overloaded(ResourceExhausted):
    """`resource` is at its limit.

    One of ``calls``, ``streams``, ``health_watchers``, ``exports``, ``password_hashing``, ``database_connections``.
    """

    reason = "OVERLOADED"

    def __init__(self, resource: str, retry_after: float = 1.0) -> None:
        super().__init__("the server is at its limit: try again later", retry_after, resource=resource)


class TooManyAttempts(ResourceExhausted):
    """Too many attempts at passwords. Alike for accounts that exist and that do not."""

    reason = "TOO_MANY_ATTEMPTS"

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many attempts: try again later", retry_after)


class ReaderTooSlow(ResourceExhausted):
    """The reader of a stream did not keep up."""

    reason = "READER_TOO_SLOW"

    def __init__(self) -> None:
        super().__init__("events came faster than they were read: resume from the last cursor")


class MessageTooLarge(ResourceExhausted):
    """The request has more than `limit` bytes. A retry does not help; gRPC itself uses this code for it."""

    reason = "MESSAGE_TOO_LARGE"

    def __init__(self, limit: int) -> None:
        super().__init__("the request is larger than the server takes", 0, limit_bytes=str(limit))


class DependencyUnavailable(Unavailable):
    """`dependency` (``database``) cannot be reached. `outcome` is ``unknown`` where a commit may have happened."""

    reason = "DEPENDENCY_UNAVAILABLE"

    def __init__(self, dependency: str, retry_after: float = 1.0, *, outcome: str = "none") -> None:
        super().__init__(
            "a dependency of the server is away: try again", retry_after, dependency=dependency, outcome=outcome
        )


class ShuttingDown(Unavailable):
    """This process drains; another replica answers."""

    reason = "SHUTTING_DOWN"

    def __init__(self) -> None:
        super().__init__("the server is shutting down: try again", 0.1)


class DeadlineExceeded(TimedOut):
    """The caller's deadline or the server's own passed first."""

    reason = "DEADLINE_EXCEEDED"

    def __init__(self) -> None:
        super().__init__("the deadline passed before the work was done")


class EtagMismatch(Aborted):
    """The resource was changed since the etag given was read."""

    reason = "ETAG_MISMATCH"

    def __init__(self) -> None:
        super().__init__("the etag is not current: read the resource again and decide")


class UserNotDeleted(AlreadyExists):
    """There is nothing to undelete (AIP-164)."""

    reason = "USER_NOT_DELETED"

    def __init__(self) -> None:
        super().__init__("the user is not deleted")


class MethodUnknown(Unimplemented):
    """The server has no such method."""

    reason = "METHOD_UNKNOWN"

    def __init__(self) -> None:
        super().__init__("the server has no such method: check the service and method names")


class ServiceUnknown(NotFound):
    """The health service knows no service of that name."""

    reason = "SERVICE_UNKNOWN"

    def __init__(self) -> None:
        super().__init__("the health service knows no service of that name")


class InternalError(Internal):
    """What a caller is told of a bug: nothing but the request id beside it."""

    reason = "INTERNAL"

    def __init__(self) -> None:
        super().__init__("internal error: the server's log has the cause under this request id")


# --- several at once -------------------------------------------------------------------------------------------------


A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


@overload
def together(first: Callable[[], A], second: Callable[[], B], /) -> tuple[A, B]: ...
@overload
def together(first: Callable[[], A], second: Callable[[], B], third: Callable[[], C], /) -> tuple[A, B, C]: ...
def together(*parsers: Callable[[], object]) -> tuple[object, ...]:
    """Run every parser and return what they return.

    Raises:
        InvalidFields: with the violations of all parsers that failed, so that a caller can mend them in one go.

    """
    values: list[object] = []
    violations: list[FieldViolation] = []
    for parse in parsers:
        try:
            values.append(parse())
        except InvalidFields as error:
            violations.extend(error.violations)
    if violations:
        raise InvalidFields(*violations)
    return tuple(values)
