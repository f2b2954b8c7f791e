"""Writes ``docs/errors.md``, the catalogue of errors, from the protos, the status table and the error classes.

``python -m service.rpc.errors_page [--check]``, from the project's root; with ``--check`` it writes nothing and fails
when the page is not what it would write. Needs grpcio-tools: comments are in the proto sources, not in the stubs.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2

from service import errors
from service.rpc.status import code_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE = Path("docs/errors.md")
_PROTO = "gatelodge/errors/v1/errors.proto"
_PREFIX = "REASON_"
_ENUM, _VALUE = 5, 2  # field numbers in FileDescriptorProto and EnumDescriptorProto, as source locations count

_HEAD = """\
# Errors

Written by `python -m service.rpc.errors_page` from `protos/gatelodge/errors/v1/errors.proto`, the status table and the
error classes. Do not edit.

Every error carries a `google.rpc.ErrorInfo` (domain `gatelodge`, a reason of this list, metadata) and a
`google.rpc.RequestInfo` with the request id, in `grpc-status-details-bin`. Decide by code and reason, never by message.
`RetryInfo` says when to try again; `BadRequest` lists every field that breaks a rule, as far as 3 kB go
(`violations_omitted` in the metadata counts the rest); `PreconditionFailure` names what must change first.

A call cancelled by its client ends as CANCELLED, and a request over 8 MiB (or `server.max_message_bytes`, if
that is more) as RESOURCE_EXHAUSTED; those come from gRPC itself and carry no details.

| reason | code | meaning, and what to do | metadata | details |
|---|---|---|---|---|
"""


def error_classes() -> dict[str, type[errors.DomainError]]:
    """Return every error class with a reason, by its reason."""
    return {cls.reason: cls for cls in _subclasses(errors.DomainError) if hasattr(cls, "reason")}


def page() -> str:
    """Return the page's text."""
    classes = error_classes()
    return _HEAD + "".join(
        _row(reason, meaning, classes[reason]) for reason, meaning in _reasons() if reason in classes
    )


def main(arguments: Sequence[str]) -> int:
    """Write or check the page; return the exit code."""
    parser = argparse.ArgumentParser(description=inspect.getdoc(sys.modules[__name__]))
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is out of date")
    text = page()
    if not parser.parse_args(arguments).check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{PAGE} is out of date: run python -m service.rpc.errors_page\n")
    return 1


def _subclasses(cls: type[errors.DomainError]) -> Iterator[type[errors.DomainError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def _reasons() -> Iterator[tuple[str, str]]:
    """Yield each reason of the proto with its comment, in the proto's order."""
    file = _parsed()
    for location in file.source_code_info.location:
        path = list(location.path)
        if len(path) == 4 and path[0] == _ENUM and path[2] == _VALUE:  # noqa: PLR2004 - enum, its index, value, its index
            name = file.enum_type[path[1]].value[path[3]].name
            yield name.removeprefix(_PREFIX), " ".join(location.leading_comments.split())


def _parsed() -> descriptor_pb2.FileDescriptorProto:
    from grpc_tools import protoc  # type: ignore[import-untyped]  # noqa: PLC0415 - a development tool, absent in production

    with tempfile.NamedTemporaryFile() as out:
        flags = ("-Iprotos", "--include_source_info", f"--descriptor_set_out={out.name}", _PROTO)
        if protoc.main(["protoc", *flags]) != 0:
            raise RuntimeError(f"protoc could not read protos/{_PROTO}; run from the project's root")
        return descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes()).file[0]


def _row(reason: str, meaning: str, cls: type[errors.DomainError]) -> str:
    metadata = ", ".join(f"`{key}`" for key in _metadata_keys(cls)) or "—"
    return f"| `{reason}` | {code_for(cls).name} | {meaning} | {metadata} | {_details(cls)} |\n"


def _metadata_keys(cls: type[errors.DomainError]) -> list[str]:
    """Return the keys by making an error of the class: its arguments are words, numbers or nothing."""
    parameters = inspect.signature(cls).parameters.values()
    needed = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    values: list[Any] = [1 if "int" in str(p.annotation) else "x" for p in needed]
    return sorted(cls(*values).metadata)


def _details(cls: type[errors.DomainError]) -> str:
    kinds = {
        errors.InvalidFields: "`BadRequest`",
        errors.Retryable: "`RetryInfo`",
        errors.FailedPrecondition: "`PreconditionFailure`",
    }
    if cls is errors.MessageTooLarge:
        return "—"
    return next((detail for kind, detail in kinds.items() if issubclass(cls, kind)), "—")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
