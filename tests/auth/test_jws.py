"""Signatures by the published vectors: what is right is accepted, so that refusing the rest means something."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jwt.algorithms import get_default_algorithms

from service.auth.jws import BadToken, json_object, opened

VECTORS = Path(__file__).parent / "vectors"
WYCHEPROOF = json.loads((VECTORS / "wycheproof.json").read_text())["groups"]
RFC = json.loads((VECTORS / "rfc.json").read_text())["vectors"]
OURS = {"ES256", "EdDSA", "RS256"}
STRICTER = {"emptyPayload"}
"""Valid to Wycheproof; a token without claims is none to us."""


def key(jwk: dict[str, Any]) -> Any:
    """Return a key as the ring holds it."""
    material: Any = get_default_algorithms()[jwk["alg"]]
    return SimpleNamespace(kid=jwk.get("kid", ""), alg=jwk["alg"], key=material.from_jwk(jwk))


SIGNATURES = [
    (group["keys"][0], test)
    for group in WYCHEPROOF
    if group["source"] == "json_web_signature_test.json" and group["keys"] and group["keys"][0].get("alg") in OURS
    for test in group["tests"]
]


def test_there_are_vectors_of_both_kinds() -> None:
    results = [test["result"] for _, test in SIGNATURES if test["comment"] not in STRICTER]
    assert results.count("valid") >= 8
    assert results.count("invalid") >= 250


@pytest.mark.parametrize("vector", RFC, ids=lambda vector: str(vector["name"]))
def test_the_examples_of_the_rfcs_are_accepted_and_nothing_else_with_their_keys(vector: dict[str, Any]) -> None:
    known = key(vector["key"])
    payload, used = opened(vector["jws"], lambda _: known)
    assert (payload[:7], used) in ((b'{"iss":', known), (b"Example", known))
    head, body, signature = vector["jws"].split(".")
    for changed in (f"{head}.{body}.{signature[:-4]}AAAA", f"{head}.{body}AA.{signature}", f"{head}.{body}.", ""):
        with pytest.raises(BadToken):
            opened(changed, lambda _: known)


@pytest.mark.parametrize(("jwk", "test"), SIGNATURES, ids=[f"{test['id']}-{test['comment']}" for _, test in SIGNATURES])
def test_wycheproofs_signatures_are_judged_as_it_says(jwk: dict[str, Any], test: dict[str, Any]) -> None:
    known = key(jwk)
    if test["result"] == "valid" and test["comment"] not in STRICTER:
        assert opened(test["jws"], lambda _: known)[1] is known
    else:
        with pytest.raises(BadToken):
            opened(test["jws"], lambda _: known)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b"[]",
        b'"text"',
        b"1",
        b"null",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b"",
        b"{",
        b'{"a":1} x',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-32-le"),
        b'{"a":"\xff"}',
        b'{"a":' + b"[" * 5000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_json_that_could_be_read_in_two_ways_is_none(raw: bytes) -> None:
    assert json_object(b'{"a": 1, "b": {"a": 1}}') == {"a": 1, "b": {"a": 1}}
    with pytest.raises(BadToken):
        json_object(raw)
