"""The stores of secrets: each turns the place that a reference names into its text.

A new one is a function here and its name in `STORES`. Those that need a library import it when they are asked, so that
it is needed only where it is used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SECONDS = 5
"""Of patience with a store."""


class UnresolvedError(Exception):
    """A reference leads nowhere; the text says why, in words that hold nothing of the secret."""


def from_file(place: str) -> str:
    """Return what is in the file, without the line end at its end.

    Raises:
        UnresolvedError: the path is not absolute, or the file cannot be read.

    """
    path = Path(place)
    if not path.is_absolute():
        raise UnresolvedError("takes an absolute path, file:/run/secrets/name")
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise UnresolvedError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UnresolvedError(f"{path} is not UTF-8 text") from None


def from_vault(place: str) -> str:
    """Return one key of a secret in HashiCorp Vault's KV store, version 2.

    Where Vault is and who we are it takes from ``VAULT_ADDR``, ``VAULT_TOKEN`` (or ``~/.vault-token``),
    ``VAULT_NAMESPACE`` and ``VAULT_CACERT``, as Vault's own command does.

    Raises:
        UnresolvedError: the library is missing, Vault cannot be asked, refuses, or has no such key.

    """
    path, _, key = place.partition("#")
    mount, _, name = path.partition("/")
    if not (mount and name and key):
        raise UnresolvedError("is written vault:<mount>/<path>#<key>")
    try:
        import hvac  # noqa: PLC0415 - an extra
    except ImportError:
        raise UnresolvedError("needs an extra: install gatelodge[vault]") from None
    try:
        read = hvac.Client(timeout=_SECONDS).secrets.kv.v2.read_secret_version
        answer = read(path=name, mount_point=mount, raise_on_deleted_version=True)
        found: Mapping[str, Any] = answer["data"]["data"]
    except Exception as error:  # noqa: BLE001 - requests', hvac's and what becomes of an answer in another shape
        raise UnresolvedError(f"{path} cannot be read from Vault: {type(error).__name__}") from None
    return _of(found, key)


def from_aws(place: str) -> str:
    """Return a secret of AWS Secrets Manager, or one key of it where it is a JSON object.

    Region, credentials and endpoint it takes from where AWS's own tools do.

    Raises:
        UnresolvedError: the library is missing, AWS cannot be asked, refuses, or there is no such key.

    """
    name, _, key = place.partition("#")
    if not name:
        raise UnresolvedError("is written aws-sm:<secret-id>, or aws-sm:<secret-id>#<json-key>")
    try:
        import boto3  # noqa: PLC0415 - an extra
        from botocore.config import Config  # noqa: PLC0415 - likewise
    except ImportError:
        raise UnresolvedError("needs an extra: install gatelodge[aws]") from None
    try:
        patience = Config(connect_timeout=_SECONDS, read_timeout=_SECONDS, retries={"max_attempts": 1})
        text: str = boto3.client("secretsmanager", config=patience).get_secret_value(SecretId=name)["SecretString"]
    except Exception as error:  # noqa: BLE001 - botocore makes its classes as it goes
        raise UnresolvedError(f"{name} cannot be read from AWS: {_aws_reason(error)}") from None
    return _of(_json(text), key) if key else text


def _aws_reason(error: Exception) -> str:
    response: Any = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code") or type(error).__name__)


def _json(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UnresolvedError("the secret is no JSON object, so it has no keys")
    return found


def _of(secret: Mapping[str, Any], key: str) -> str:
    value = secret.get(key)
    if not isinstance(value, str):
        raise UnresolvedError(f"the secret has no text under the key {key}")
    return value


STORES: Mapping[str, Callable[[str], str]] = {"file": from_file, "vault": from_vault, "aws-sm": from_aws}
"""By the scheme of their references."""
