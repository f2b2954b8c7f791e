"""Checks requests against the constraints declared in their protos; all violations are told together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from protovalidate import Validator

from service.errors import FieldViolation, InvalidFields
from service.rpc.interceptors.layer import Layer

if TYPE_CHECKING:
    from protovalidate import Violation

    from service.rpc.methods import Method

_KEY_CHARACTERS = 40


class Validation(Layer):
    """Refuses requests that break a declared rule. Descriptions say what the rule is, never what the value was."""

    def __init__(self) -> None:
        super().__init__()
        self._validator = Validator()

    def incoming(self, method: Method, message: Any) -> Any:
        """Return `message` if it is valid.

        Raises:
            InvalidFields: with every violation.

        """
        if method.request_class is None:
            return message
        violations = self._validator.collect_violations(message)
        if violations:
            raise InvalidFields(*map(_violation, violations))
        return message


def _violation(violation: Violation) -> FieldViolation:
    proto = violation.proto
    elements = proto.field.elements if proto.field else ()
    path = ".".join(_element(element) for element in elements)
    return FieldViolation(path, proto.message or proto.rule_id or "is not valid")


def _element(element: Any) -> str:
    """Return ``name``, ``name[2]`` or ``name["key"]``."""
    subscript = element.subscript
    if subscript is None:
        return str(element.field_name)
    value = subscript.value
    return f"{element.field_name}[{json.dumps(value[:_KEY_CHARACTERS]) if isinstance(value, str) else value}]"
