"""A file made on first use is made once, whoever comes at the same time, and is its owner's alone."""

import stat
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from service.files import made_once


def test_what_comes_first_stays(tmp_path: Path) -> None:
    assert made_once(tmp_path / "a" / "secret", lambda: "first") == "first"
    assert made_once(tmp_path / "a" / "secret", lambda: "second") == "first"


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    made_once(tmp_path / "secret", lambda: "first")
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_all_who_come_at_once_get_the_same(tmp_path: Path) -> None:
    numbers = count()
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda _: made_once(tmp_path / "secret", lambda: str(next(numbers))), range(64)))
    assert len(set(got)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
