"""Values of the roles feature."""

from __future__ import annotations

import pytest

from service.errors import InvalidFields, RoleNotFound
from service.roles.model import Description, Permission, RoleName, permissions_of


@pytest.mark.parametrize("text", ["a", "admin", "help-desk_2", "a" * 63])
def test_a_role_name_is_read(text: str) -> None:
    assert str(RoleName.parse(text)) == text


@pytest.mark.parametrize("text", ["", "Admin", "1a", "_a", "a b", "a\n", "é", "a" * 64])
def test_what_is_no_role_name_is_refused_and_names_no_role(text: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        RoleName.parse(text)
    assert caught.value.violations[0].field == "role.name"
    with pytest.raises(RoleNotFound):
        RoleName.existing(text)


@pytest.mark.parametrize(("text", "namespace"), [("users.read", "users"), ("billing.invoices.pay_2", "billing")])
def test_a_permission_is_read(text: str, namespace: str) -> None:
    assert Permission.parse(text).namespace == namespace


@pytest.mark.parametrize(
    "text", ["", "users", "users.", ".read", "Users.read", "users.read\n", "users.*", "a." * 50 + "b"]
)
def test_what_is_no_permission_is_refused(text: str) -> None:
    with pytest.raises(InvalidFields):
        Permission.parse(text)


def test_a_role_has_at_most_256_permissions_and_each_once() -> None:
    assert len(permissions_of(["a.b", "a.b", "a.c"])) == 2
    assert len(permissions_of([f"a.b{number}" for number in range(256)])) == 256
    with pytest.raises(InvalidFields):
        permissions_of([f"a.b{number}" for number in range(257)])


def test_a_description_is_short_and_has_no_control_characters() -> None:
    assert Description.parse("For the help desk.\n\tDay shift.").text == "For the help desk.\n\tDay shift."
    for text in ("x" * 501, "\x00", "\x1b[31m"):
        with pytest.raises(InvalidFields):
            Description.parse(text)
