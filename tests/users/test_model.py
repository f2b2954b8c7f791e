"""Values of the users feature cannot hold bad values."""

import time
import unicodedata

import pytest

from service.errors import InvalidFields, UserNotFound
from service.users.model import DisplayName, Email, UserId


@pytest.mark.parametrize(
    "variant",
    [
        "jürgen@bücher.example",
        "JÜRGEN@BÜCHER.EXAMPLE",
        unicodedata.normalize("NFD", "jürgen@bücher.example"),
        "jürgen@xn--bcher-kva.example",
        "Jürgen@XN--BCHER-KVA.example",
        "jürgen@bücher。example",
    ],
)
def test_spellings_of_one_address_have_one_canonical_form(variant: str) -> None:
    assert Email.parse(variant).canonical == "jürgen@xn--bcher-kva.example"


def test_case_is_folded_not_merely_lowered() -> None:
    assert Email.parse("STRASSE@example.com").canonical == Email.parse("straße@example.com").canonical
    assert Email.parse("ΟΔΟΣ@example.com").canonical == Email.parse("οδος@example.com").canonical


def test_an_address_is_kept_as_it_was_typed() -> None:
    assert Email.parse("Ada.Lovelace@Example.COM").typed == "Ada.Lovelace@Example.COM"


@pytest.mark.parametrize("address", ["ada@corp.internal", "ada@build.local", "ada@mail", "o'hara+tag@example.com"])
def test_internal_and_unusual_addresses_are_welcome(address: str) -> None:
    assert Email.parse(address).typed == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@example.com",
        "ada@",
        "a b@example.com",
        "ada@example..com",
        "ada\r\n@example.com",
        "ada\0@example.com",
        "ada@[127.0.0.1]",
        '"a b"@example.com',
        "ada@exam\u202eple.com",
        "a" * 65 + "@example.com",
        "a@" + "b" * 250 + ".de",
    ],
)
def test_what_is_no_address_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        Email.parse(text, field="user.email")
    assert [violation.field for violation in caught.value.violations] == ["user.email"]


def test_an_endless_address_is_refused_before_it_is_normalised() -> None:
    start = time.thread_time()
    with pytest.raises(InvalidFields):
        Email.parse("a" + "\u0301" * 200_000 + "@example.com")
    assert time.thread_time() - start < 0.01


def test_a_display_name_is_trimmed_and_normalised() -> None:
    assert DisplayName.parse("  Ame\u0301lie ").text == "Amélie"


@pytest.mark.parametrize(
    "text", ["Ada\nLovelace", "Ada\x1b[2J", "x" * 201, "Ada\u202eecalevoL", "\ufeff", "Ada\u2028Lovelace"]
)
def test_a_display_name_that_could_forge_a_line_or_has_no_end_is_refused(text: str) -> None:
    with pytest.raises(InvalidFields):
        DisplayName.parse(text)


def test_what_is_no_id_names_no_user() -> None:
    with pytest.raises(UserNotFound):
        UserId.parse("42; drop table users")
