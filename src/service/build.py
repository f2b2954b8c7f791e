"""Which build this is: release and commit, baked into the wheel, or read from the checkout."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

_BAKED = Path(__file__).with_name("COMMIT")
_CHECKOUT = Path(__file__).parents[2] / ".git"


@dataclass(frozen=True, slots=True)
class Build:
    """A release of the service."""

    version: str
    commit: str
    """The git commit, 40 hex digits, or ``unknown``."""

    def __str__(self) -> str:
        return f"gatelodge {self.version} ({self.commit[:12]})"


def this_build() -> Build:
    """Return the build that runs."""
    return Build(version("gatelodge"), _commit())


def _commit() -> str:
    if _BAKED.is_file():
        return _BAKED.read_text().strip()
    return _checked_out(_CHECKOUT) or "unknown"


def _checked_out(git: Path) -> str:
    """Read what HEAD points at without needing git: the ref's own file, or the packed refs."""
    head = git / "HEAD"
    if not head.is_file():
        return ""
    ref = head.read_text().strip()
    if not ref.startswith("ref: "):
        return ref
    name = ref.removeprefix("ref: ")
    if (git / name).is_file():
        return (git / name).read_text().strip()
    packed = git / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
