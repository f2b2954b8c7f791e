"""What tests of several rooms share: the PostgreSQL of the run, and databases of one's own in it."""

import pytest

pytest.register_assert_rewrite("tests.app", "tests.rpc", "tests.db", "tests.deploy")

from tests.db.conftest import (  # noqa: E402 - its asserts are rewritten, too
    Fragile,
    empty_url,
    fragile,
    maker,
    server_url,
    template,
    url,
)

__all__ = ["Fragile", "empty_url", "fragile", "maker", "server_url", "template", "url"]
