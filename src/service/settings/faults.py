"""What is wrong with the settings: one fault each, one error for them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.settings.keys import Key, nearest, settable

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong. Holds names and rules, never a value."""

    text: str
    key: Key | None = None
    origin: str = ""
    """The source the value came from, as a person would look for it."""

    def __str__(self) -> str:
        where = f" [{self.origin}]" if self.origin else ""
        return f"{self.key}: {self.text}{where}" if self.key else f"{self.text}{where}"


class SettingsError(Exception):
    """The settings are wrong. The message lists every fault; `faults` has them one by one."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([f"the settings have {count}:", *(f"  - {fault}" for fault in faults)]))
        self.faults = tuple(faults)


def shown(name: str) -> str:
    """Return `name` fit for a message: printable and of bounded length."""
    return "".join(c if c.isprintable() else "?" for c in name[:_NAME_LENGTH])


def unknown(name: str, dotted: str, origin: str) -> Fault:
    """Return the fault of a setting that does not exist, spelled `name` where it was found and `dotted` in the tree."""
    names = {key.dotted: key for key in settable()}
    close = nearest(dotted, names)
    hint = f"did you mean {names[close]}?" if close else "no setting has a name like it"
    return Fault(f"unknown setting {shown(name)}: {hint}", origin=origin)
