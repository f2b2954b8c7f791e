"""The headers of a call."""

from __future__ import annotations

from typing import Any

import pytest

from service.rpc.metadata import Headers, headers_of


@pytest.mark.parametrize(
    ("pairs", "texts"),
    [
        ((), []),
        ((("other", "a"),), []),
        ((("name", "a"), ("other", "b")), ["a"]),
        ((("name", "a"), ("other", "b"), ("name", "c")), ["a", "c"]),
        ((("name", "a"), ("other", "b"), ("other", "c")), ["a"]),
        ((("name", b"a"), ("other", "b")), []),
        ((("name", b"a"), ("name", "b")), ["b"]),
    ],
)
def test_values_come_in_their_order_and_only_texts(pairs: Any, texts: list[str]) -> None:
    headers = Headers(pairs)
    assert headers.texts("name") == texts
    assert headers.text("name") == (texts[0] if texts else None)


def test_values_that_are_not_text_are_seen_by_who_asks_for_them() -> None:
    assert Headers((("name", b"a"), ("name", "b"))).values("name") == [b"a", "b"]
    assert Headers((("name", b"a"),)).values("name") == [b"a"]


def test_grpc_is_asked_once_for_each_call() -> None:
    class Context:
        asked = 0

        def invocation_metadata(self) -> Any:
            self.asked += 1
            return (("name", str(id(self))),)

    one, other = Context(), Context()
    for context in (one, one, other, other):
        found: Any = headers_of(context)  # type: ignore[arg-type]  # of gRPC's it has what is asked for
        assert found.text("name") == str(id(context))
    assert (one.asked, other.asked) == (1, 1)
