"""What a method is: its name, shape, access rule and request type, read from its proto descriptor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatelodge.access.v1 import access_pb2
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from grpc_health.v1 import health_pb2  # noqa: F401 - puts the health service's descriptor into the pool

from service.access import Kind, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.descriptor import Descriptor, MethodDescriptor
    from google.protobuf.message import Message

INFRASTRUCTURE = frozenset(
    {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
)
"""Standard services whose protos cannot carry our option: public, and never shed."""

_NAMED_KINDS = {"permission": Kind.PERMISSION, "self_or": Kind.SELF_OR}
_FLAG_KINDS = {"public": Kind.PUBLIC, "authenticated": Kind.AUTHENTICATED, "service": Kind.SERVICE}
_UNDECLARED = Rule(Kind.UNDECLARED)


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the server, or `UNKNOWN`."""

    name: str
    """Full name without the leading slash: ``gatelodge.users.v1.UserService/GetUser``."""
    client_streaming: bool
    server_streaming: bool
    rule: Rule
    request_class: type[Message] | None = None
    """None for `UNKNOWN` and for methods whose proto is not loaded."""
    known: bool = True
    """Whether the server has it."""

    infrastructure: bool = False
    """Whether it belongs to health or reflection."""

    @property
    def public(self) -> bool:
        """Whether anyone may call it without a credential."""
        return self.rule.kind is Kind.PUBLIC


UNKNOWN = Method("_OTHER", client_streaming=True, server_streaming=True, rule=Rule(Kind.PUBLIC), known=False)
"""Every method the server lacks. Their names are the caller's to choose, so none is kept in logs, metrics or spans."""

UNREAD_PATH = "/_OTHER/_OTHER"
"""Stands for the path of every unknown method, see ``intake.py``."""


def describe(path: str, *, client_streaming: bool, server_streaming: bool) -> Method:
    """Return the method served at `path` (``/package.Service/Method``), its rule read from the descriptor pool."""
    name = path.removeprefix("/")
    found = _find(name)
    return Method(
        name,
        client_streaming,
        server_streaming,
        _rule(name, found),
        message_factory.GetMessageClass(found.input_type) if found else None,
        infrastructure=name.partition("/")[0] in INFRASTRUCTURE,
    )


def check_rules(service_names: Iterable[str]) -> None:
    """Check at start-up that every method of our services declares who may call it, in a way that can be enforced.

    Raises:
        ValueError: listing every method with no rule, and every ``self_or`` that has no ``user_id`` to compare with.

    """
    faults = [fault for name in service_names if name not in INFRASTRUCTURE for fault in _faults(name)]
    if faults:
        raise ValueError("methods without a usable access rule: " + "; ".join(faults))


def permissions(service_names: Iterable[str]) -> dict[str, list[str]]:
    """Return the permissions that the methods of these services declare, each with the names of the methods."""
    needed: dict[str, list[str]] = {}
    for service_name in service_names:
        for method in descriptor_pool.Default().FindServiceByName(service_name).methods:
            if permission := _declared(method).permission:
                needed.setdefault(permission, []).append(f"{service_name}/{method.name}")
    return needed


def _find(name: str) -> MethodDescriptor | None:
    try:
        return descriptor_pool.Default().FindMethodByName(name.replace("/", "."))
    except KeyError:
        return None


def _rule(name: str, descriptor: MethodDescriptor | None) -> Rule:
    if name.partition("/")[0] in INFRASTRUCTURE:
        return Rule(Kind.PUBLIC)
    return _declared(descriptor) if descriptor else _UNDECLARED


def _declared(descriptor: MethodDescriptor) -> Rule:
    """Read the option. ``public: false`` and an empty permission declare nothing."""
    rule = descriptor.GetOptions().Extensions[access_pb2.rule]
    kind = rule.WhichOneof("kind")
    if kind is None or not getattr(rule, kind):
        return _UNDECLARED
    if kind in _NAMED_KINDS:
        return Rule(_NAMED_KINDS[kind], getattr(rule, kind))
    return Rule(_FLAG_KINDS[kind])


def _faults(service_name: str) -> list[str]:
    try:
        service = descriptor_pool.Default().FindServiceByName(service_name)
    except KeyError:
        return [f"{service_name} has no descriptor"]
    return [fault for method in service.methods if (fault := _fault(method))]


def _fault(method: MethodDescriptor) -> str | None:
    rule = _declared(method)
    if rule.kind is Kind.UNDECLARED:
        return f"{method.full_name} declares no rule"
    if rule.kind is Kind.SELF_OR and (method.client_streaming or not _has_user_id(method.input_type)):
        return f"{method.full_name} is self_or, but it has no single request with a string user_id"
    return None


def _has_user_id(message: Descriptor) -> bool:
    field = message.fields_by_name.get("user_id")
    return field is not None and field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated
