"""Keeps what peers sent out of the records that gRPC's Cython layer logs."""

from __future__ import annotations

import logging

_LOGGER = "grpc._cython.cygrpc"
_TEXT = "a peer sent metadata that is not text"


class _WithoutValues(logging.Filter):
    """Puts a fixed text at DEBUG in the place of every record that quotes bytes.

    gRPC quotes the whole value of a header that is not UTF-8, at ERROR with a traceback: a secret as well as anything
    else, and as often as anyone likes.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not _quotes_bytes(record):
            return True
        record.msg, record.args, record.exc_info, record.exc_text = _TEXT, (), None, None
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


def _quotes_bytes(record: logging.LogRecord) -> bool:
    args = record.args if isinstance(record.args, tuple) else (record.args,)
    error = record.exc_info[1] if record.exc_info else None
    return isinstance(error, UnicodeError) or any(isinstance(arg, bytes | bytearray) for arg in args)


class Silencer:
    """The filter on gRPC's logger, until closed."""

    def __init__(self) -> None:
        self._filter = _WithoutValues()
        logging.getLogger(_LOGGER).addFilter(self._filter)

    def close(self) -> None:
        """Take the filter off."""
        logging.getLogger(_LOGGER).removeFilter(self._filter)
