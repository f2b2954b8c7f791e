from tests.db.conftest import Fragile, empty_url, fragile, server_url, template, url  # noqa: F401
