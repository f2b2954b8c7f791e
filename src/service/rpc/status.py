"""THE table from domain errors to gRPC status codes, and the `google.rpc` details every error carries (AIP-193)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from service import errors

if TYPE_CHECKING:
    from google.protobuf.message import Message

DOMAIN = "gatelodge"
"""`ErrorInfo.domain` of every error."""

DETAILS_KEY = "grpc-status-details-bin"
REQUEST_ID_KEY = "x-request-id"

CODES: dict[type[errors.DomainError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}

_VIOLATION_BYTES = 3000
"""Clients refuse trailers over 8 KiB by default, and a request can break a rule a thousand times over."""
_MESSAGE_CHARACTERS = 500


def code_for(error_class: type[errors.DomainError]) -> grpc.StatusCode:
    """Return the code of the nearest class in the table; INTERNAL for a kind that is in none of it."""
    return next((CODES[cls] for cls in error_class.__mro__ if cls in CODES), grpc.StatusCode.INTERNAL)


def reason_of(error: errors.DomainError) -> str:
    """Return the error's reason; a kind raised bare has none of its own and counts as a bug."""
    return getattr(error, "reason", errors.InternalError.reason)


def message_of(error: errors.DomainError) -> str:
    """Return the text for people, cut where trailers would get too large."""
    return error.message[:_MESSAGE_CHARACTERS]


def status_for(error: errors.DomainError, request_id: str) -> status_pb2.Status:
    """Return the whole `google.rpc.Status`: `ErrorInfo` always, each detail type once."""
    status = status_pb2.Status(code=code_for(type(error)).value[0], message=message_of(error))
    for detail in _details(error, request_id):
        status.details.add().Pack(detail)
    return status


def trailers_for(error: errors.DomainError, request_id: str) -> tuple[tuple[str, str | bytes], ...]:
    """Return the trailing metadata of an error: the status with its details, and the request id."""
    details = (DETAILS_KEY, status_for(error, request_id).SerializeToString())
    return ((REQUEST_ID_KEY, request_id), details) if request_id else (details,)


def _details(error: errors.DomainError, request_id: str) -> list[Message]:
    info = error_details_pb2.ErrorInfo(reason=reason_of(error), domain=DOMAIN, metadata=error.metadata)
    details: list[Message] = [info]
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    if isinstance(error, errors.InvalidArgument) and error.violations:
        details.append(_bad_request(error.violations, info))
    if isinstance(error, errors.Retryable) and error.retry_after > 0:
        details.append(error_details_pb2.RetryInfo(retry_delay=_duration(error.retry_after)))
    if isinstance(error, errors.FailedPrecondition):
        details.append(_precondition(error))
    return details


def _bad_request(
    violations: tuple[errors.FieldViolation, ...], info: error_details_pb2.ErrorInfo
) -> error_details_pb2.BadRequest:
    """List the violations as far as they fit; `violations_omitted` in the metadata says how many did not."""
    bad, size = error_details_pb2.BadRequest(), 0
    for listed, violation in enumerate(violations):
        size += len(violation.field.encode()) + len(violation.description.encode())
        if listed and size > _VIOLATION_BYTES:
            info.metadata["violations_omitted"] = str(len(violations) - listed)
            break
        bad.field_violations.add(
            field=violation.field[:_MESSAGE_CHARACTERS], description=violation.description[:_MESSAGE_CHARACTERS]
        )
    return bad


def _precondition(error: errors.FailedPrecondition) -> error_details_pb2.PreconditionFailure:
    failure = error_details_pb2.PreconditionFailure()
    failure.violations.add(type=reason_of(error), subject=error.subject, description=message_of(error))
    return failure


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
