"""A device token is worth something to one account, for its time, as it was issued; and nothing else."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from service.auth.devices import PREFIX, Devices

ADA, BOB = "ada@example.com", "bob@example.com"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Time:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def devices(time: Time) -> Devices:
    numbers = iter(range(1, 100))
    return Devices(key=b"k" * 32, lifetime=timedelta(days=180), clock=time, random=lambda n: bytes([next(numbers)]) * n)


def test_a_token_names_its_device_until_it_expires(devices: Devices, time: Time) -> None:
    token = devices.issue(ADA, None)
    first = devices.read(token, ADA)
    assert first is not None
    assert token.startswith(PREFIX)
    time.now += timedelta(days=180)
    assert devices.read(token, ADA) == first
    time.now += timedelta(seconds=1)
    assert devices.read(token, ADA) is None


def test_a_renewed_token_is_of_the_same_device_and_lives_anew(devices: Devices, time: Time) -> None:
    first = devices.read(devices.issue(ADA, None), ADA)
    time.now += timedelta(days=100)
    renewed = devices.issue(ADA, first)
    time.now += timedelta(days=100)
    assert devices.read(renewed, ADA) == first


def test_two_devices_count_apart_and_so_do_two_accounts(devices: Devices) -> None:
    one, two = (devices.read(devices.issue(ADA, None), ADA) for _ in range(2))
    assert one is not None
    assert two is not None
    other = devices.read(devices.issue(BOB, one), BOB)
    assert other is not None
    assert len({one.bucket_key, two.bucket_key, other.bucket_key}) == 3


def test_a_token_of_another_account_is_worth_nothing(devices: Devices) -> None:
    assert devices.read(devices.issue(BOB, None), ADA) is None


def test_a_token_under_another_key_is_worth_nothing(devices: Devices, time: Time) -> None:
    other = Devices(key=b"o" * 32, lifetime=timedelta(days=180), clock=time, random=bytes)
    assert devices.read(other.issue(ADA, None), ADA) is None


def test_every_changed_bit_makes_it_worthless(devices: Devices) -> None:
    token = devices.issue(ADA, None)
    raw = base64.urlsafe_b64decode(token.removeprefix(PREFIX) + "=")
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        assert devices.read(PREFIX + base64.urlsafe_b64encode(changed).rstrip(b"=").decode(), ADA) is None


def test_what_is_no_token_is_worth_nothing(devices: Devices) -> None:
    token = devices.issue(ADA, None)
    spare_bits = token[:-1] + chr(ord(token[-1]) + 1)
    for text in (
        token[4:],
        token + "=",
        token + "A",
        token[:-1],
        spare_bits,
        "gld_",
        "gld_" + "é" * 70,
        token[:9] + "\n" + token[9:],
    ):
        assert devices.read(text, ADA) is None
