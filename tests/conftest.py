"""What tests of several rooms share: the PostgreSQL of the run, and databases of one's own in it."""

from tests.db.conftest import Fragile, empty_url, fragile, maker, server_url, template, url

__all__ = ["Fragile", "empty_url", "fragile", "maker", "server_url", "template", "url"]
