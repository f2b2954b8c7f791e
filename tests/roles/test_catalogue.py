"""Which permissions a role may name."""

from __future__ import annotations

import pytest

from service.errors import InvalidFields
from service.roles.catalogue import Catalogue
from service.roles.model import Permission

CATALOGUE = Catalogue({"users.read": ["a/B", "a/A"], "users.delete": ["a/C"], "events.read": ["a/D"]})


def test_what_there_is_may_be_named_and_so_may_what_is_other_services() -> None:
    CATALOGUE.check([Permission("users.read"), Permission("billing.pay"), Permission("billing.users.raed")])


@pytest.mark.parametrize(("typed", "meant"), [("users.raed", "users.read"), ("users.delete.all", "users.delete")])
def test_what_would_be_ours_and_is_not_there_is_refused_with_what_is_nearest(typed: str, meant: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        CATALOGUE.check([Permission("users.read"), Permission(typed)])
    (violation,) = caught.value.violations
    assert violation.field == "role.permissions"
    assert violation.description.endswith(f"did you mean {meant}?")


def test_permissions_and_their_methods_are_in_order() -> None:
    assert list(CATALOGUE.methods) == ["events.read", "users.delete", "users.read"]
    assert CATALOGUE.methods["users.read"] == ("a/A", "a/B")
