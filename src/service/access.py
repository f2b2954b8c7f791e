"""Who calls, what they may do, and the rule a method declares. Reading the rule from the proto is ``rpc/methods.py``'s.

Owns the decision; depends on nothing but the errors it raises.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from service.errors import CredentialsMissing, PermissionMissing, UserNotFound

if TYPE_CHECKING:
    from uuid import UUID

ADMIN = "admin"
"""The built-in role that holds every permission."""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller."""

    subject: str
    """The user's id, the token's ``sub``."""
    roles: frozenset[str] = frozenset()
    is_service: bool = False
    """Whether this is a service identity rather than a person."""
    permissions: frozenset[str] = frozenset()
    """What the roles allow, as they are defined now."""
    session_id: UUID | None = None
    """The session whose token it is, its ``sid``."""
    token_version: int = 0
    """The user's token version when the token was issued, its ``ver``."""
    expire_time: float = math.inf
    """When the token expires, Unix seconds."""

    def may(self, permission: str) -> bool:
        """Tell whether the caller holds `permission`."""
        return bool(permission) and (ADMIN in self.roles or permission in self.permissions)


class Kind(Enum):
    """The kinds of rule a method can declare, as in ``gatelodge.access.v1.Rule``."""

    PUBLIC = "public"
    AUTHENTICATED = "authenticated"
    PERMISSION = "permission"
    SELF_OR = "self_or"
    SERVICE = "service"
    UNDECLARED = "undeclared"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a method declares about its callers."""

    kind: Kind
    permission: str = ""
    """For `Kind.PERMISSION` and `Kind.SELF_OR`."""

    def admit(self, principal: Principal | None) -> None:
        """Let the caller in as far as can be told before the request is looked at.

        Raises:
            CredentialsMissing: nobody is logged in and the method is not public.
            PermissionMissing: the caller is known and may not.

        """
        if self.kind is Kind.PUBLIC:
            return
        if principal is None:
            raise CredentialsMissing
        if self.kind is Kind.PERMISSION and not principal.may(self.permission):
            raise PermissionMissing(self.permission)
        if self.kind is Kind.SERVICE and not principal.is_service:
            raise PermissionMissing("service")
        if self.kind is Kind.UNDECLARED:
            raise PermissionMissing("undeclared")

    def admit_target(self, principal: Principal | None, user_id: str) -> None:
        """For `Kind.SELF_OR`: let the caller at `user_id` if it is their own or they hold the permission.

        Raises:
            CredentialsMissing: nobody is logged in.
            UserNotFound: for everyone else the user does not exist (AIP-211).

        """
        if self.kind is not Kind.SELF_OR:
            return
        if principal is None:
            raise CredentialsMissing
        if principal.subject != user_id.lower() and not principal.may(self.permission):
            raise UserNotFound
