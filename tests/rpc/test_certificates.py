"""Certificates that are no good are not taken, at the start or in place of one that is."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.certificates import Authority, expiry

from service.errors import CannotRun
from service.rpc.certificates import CertificateFiles, Certificates

if TYPE_CHECKING:
    from pathlib import Path


def test_a_start_with_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    files = Authority().issue(dns=("localhost",), valid=timedelta(seconds=-1)).write(tmp_path, "server")
    with pytest.raises(CannotRun, match="expired at"):
        Certificates(CertificateFiles(*files), expires=lambda _: None)


def test_one_that_is_not_valid_yet_is_refused_and_one_that_will_be_at_once_is_not(tmp_path: Path) -> None:
    authority = Authority()
    early = authority.issue(dns=("localhost",), begins=timedelta(hours=1)).write(tmp_path, "early")
    with pytest.raises(CannotRun, match="not valid before"):
        Certificates(CertificateFiles(*early), expires=lambda _: None)
    soon = authority.issue(dns=("localhost",), begins=timedelta(minutes=1)).write(tmp_path, "soon")
    assert Certificates(CertificateFiles(*soon), expires=lambda _: None).credentials


def test_an_expired_certificate_does_not_take_the_place_of_a_good_one(tmp_path: Path) -> None:
    authority, told = Authority(), list[float]()
    good = authority.issue(dns=("localhost",))
    certificates = Certificates(CertificateFiles(*good.write(tmp_path, "server")), expires=told.append)
    authority.issue(dns=("localhost",), valid=timedelta(seconds=-1)).write(tmp_path, "server")
    assert not certificates.look()
    better = authority.issue(dns=("localhost",), valid=timedelta(days=2))
    better.write(tmp_path, "server")
    assert certificates.look()
    assert told == [expiry(good.certificate), expiry(better.certificate)]
