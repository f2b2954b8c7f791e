"""Private keys at rest are unreadable without the master secret."""

import pytest

from service.auth.sealing import Seal, SealBroken
from service.errors import CannotRun

SECRET = b"a private key"


def test_what_is_sealed_opens_again_and_is_not_in_the_box() -> None:
    seal = Seal(b"m" * 32)
    box = seal.seal(SECRET, label="kid-1")
    assert seal.open(box, label="kid-1") == SECRET
    assert SECRET not in box


def test_two_boxes_of_one_secret_differ() -> None:
    seal = Seal(b"m" * 32)
    assert seal.seal(SECRET, label="kid-1") != seal.seal(SECRET, label="kid-1")


@pytest.mark.parametrize("length", [0, 31])
def test_a_master_secret_that_is_too_short_is_refused(length: int) -> None:
    with pytest.raises(CannotRun):
        Seal(b"m" * length)


def test_another_master_secret_does_not_open_it() -> None:
    with pytest.raises(SealBroken):
        Seal(b"n" * 32).open(Seal(b"m" * 32).seal(SECRET, label="kid-1"), label="kid-1")


def test_a_box_does_not_open_under_another_label() -> None:
    seal = Seal(b"m" * 32)
    with pytest.raises(SealBroken):
        seal.open(seal.seal(SECRET, label="kid-1"), label="kid-2")


@pytest.mark.parametrize("index", [0, 5, 20, -1])
def test_a_changed_box_does_not_open(index: int) -> None:
    seal = Seal(b"m" * 32)
    box = bytearray(seal.seal(SECRET, label="kid-1"))
    box[index] ^= 1
    with pytest.raises(SealBroken):
        seal.open(bytes(box), label="kid-1")


def test_previous_master_secrets_open_and_do_not_seal() -> None:
    old, both, new = Seal(b"m" * 32), Seal(b"n" * 32, b"m" * 32), Seal(b"n" * 32)
    box = old.seal(SECRET, label="kid-1")
    assert both.open(box, label="kid-1") == SECRET
    fresh = both.resealed(box, label="kid-1")
    assert fresh is not None
    assert new.open(fresh, label="kid-1") == both.open(fresh, label="kid-1") == SECRET
    assert both.resealed(fresh, label="kid-1") is None
    with pytest.raises(SealBroken):
        old.open(fresh, label="kid-1")


@pytest.mark.parametrize("box", [b"", b"\x01", b"\x01" + b"n" * 12, b"\x02" + b"n" * 40])
def test_what_is_no_box_does_not_open(box: bytes) -> None:
    with pytest.raises(SealBroken):
        Seal(b"m" * 32).open(box, label="kid-1")
