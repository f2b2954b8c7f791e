"""How much of a password cannot be predicted: what is left without common passwords, sequences, repeats, own names.

Lists of known passwords hold almost none of 15 characters or more, so a password is taken apart instead of looked up.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

COMMON = Path(__file__).with_name("common-passwords.txt")
_MOST_CHARACTERS = 256
_SHORTEST_COMMON = 4
_SHORTEST_PERSONAL = 3
_MOST_PERSONAL = 40
"""Words of one's own that are looked for: more than a name and an address have."""
_SHORTEST_RUN = 4
_REPEATED = 4
"""Characters in a row that count as a repetition when they came before."""

_COMMONEST = 1000
_COMMONEST_POINTS = 2
_COMMON_POINTS = 3
"""What a common password or word is worth in random letters: one of 1000 is 10 bits, of 10 000 13, a letter is 4.7."""
_YEAR_POINTS = 1
_MOST_DECORATION = 4
"""What digits and signs at the beginning, or the end, are worth at most, however many: few people choose them well."""
_MOST_SEPARATORS = 2
_LEAST_DISTINCT = 5

_SEPARATORS = re.compile(r"[\s\-_.,:;/\\'|]+")
_YEAR = re.compile(r"(?=(?:19|20)\d\d)")
_WORDS = re.compile(r"[^\W_]+")
_SUBSTITUTED = "0134578@$!9"
_SUBSTITUTES = (str.maketrans(_SUBSTITUTED, "oleastbasig"), str.maketrans(_SUBSTITUTED, "oieastbaslg"))
_ROWS = (
    *("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm", "!@#$%^&*()"),
    *("qwertzuiop", "yxcvbnm", "azertyuiop", "qsdfghjklm", "wxcvbn"),
    *("1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p", "qazwsxedcrfvtgbyhnujmikolp", "1q2w3e4r5t6y7u8i9o0p"),
)
_NEIGHBOURS = frozenset(pair for row in _ROWS for a, b in pairwise(row) for pair in (a + b, b + a))


class Pattern(Enum):
    """What makes a part of a password predictable, in words that fit into a refusal."""

    PERSONAL = "your own name and address and the service's name"
    COMMON = "common passwords and words"
    RUN = "sequences and rows of keys"
    REPEAT = "repetitions"
    ENDS = "years, and digits and signs at the ends"
    FEW = "characters that come again and again"


@dataclass(frozen=True, slots=True)
class Weight:
    """What a password is worth."""

    points: int
    """As much as so many random letters."""
    patterns: tuple[Pattern, ...]
    """What was taken away."""


class Common:
    """Common passwords and words, bare. They are given commonest first.

    Sorted, with their points beside them: as a mapping they would take twice the memory. A search costs the logarithm
    of how many there are, so an operator's long list costs little.
    """

    def __init__(self, words: Iterable[str]) -> None:
        points = {
            word: _COMMONEST_POINTS if rank < _COMMONEST else _COMMON_POINTS
            for rank, word in enumerate(dict.fromkeys(map(_skeleton, words)))
            if len(word) >= _SHORTEST_COMMON
        }
        self._words = tuple(sorted(points))
        self._points = bytes(points[word] for word in self._words)

    def at(self, text: str, start: int) -> Iterator[tuple[int, int]]:
        """Yield the end and the points of each word that `text` has at `start`."""
        place = 0
        for end in range(start + _SHORTEST_COMMON, len(text) + 1):
            part = text[start:end]
            place = bisect_left(self._words, part, place)
            if place == len(self._words) or not self._words[place].startswith(part):
                return  # nothing begins so, and nothing longer will
            if self._words[place] == part:
                yield end, self._points[place]


class Blocklist:
    """Weighs passwords. `common` are common passwords and words, `names` what this service is called.

    A weighing takes 2 ms at the worst, so it is done on the event loop (tests/auth/test_blocklist.py measures it).
    """

    def __init__(self, common: Common, *, names: Iterable[str]) -> None:
        self._listed = common
        self._names = tuple(names)

    @classmethod
    def load(cls, *, names: Iterable[str], extra: Path | None = None) -> Blocklist:
        """Read the list that comes with the service and, if there is one, the operator's: one password or word a line.

        Raises:
            OSError, UnicodeDecodeError: a file cannot be read.

        """
        return cls(Common(chain(_lines(extra), _lines(COMMON))) if extra else _shipped(), names=names)

    def weigh(self, password: str, about: Iterable[str] = ()) -> Weight:
        """Return what `password` is worth to someone who knows the texts `about` its owner."""
        text = _skeleton(password)
        if len(set(text)) < _LEAST_DISTINCT:
            return Weight(len(set(text)), (Pattern.FEW,))
        spellings = tuple(dict.fromkeys((text, *(text.translate(table) for table in _SUBSTITUTES))))
        pieces = [*self._common(spellings), *_personal(spellings, (*self._names, *about)), *_years(text)]
        weight = _lightest(len(text), pieces, _predicted(text))
        if not any(map(str.isalpha, text)):  # a digit is 3.3 bits
            weight = Weight(weight.points * 2 // 3, weight.patterns or (Pattern.ENDS,))
        separators = {match[0][0] for match in _SEPARATORS.finditer(password)}
        return Weight(weight.points + min(len(separators), _MOST_SEPARATORS), weight.patterns)

    def _common(self, spellings: Iterable[str]) -> Iterator[_Piece]:
        for text in spellings:
            for start in range(len(text) - _SHORTEST_COMMON + 1):
                for end, points in self._listed.at(text, start):
                    yield _Piece(start, end, points, Pattern.COMMON)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of the text that is worth `points`, whatever its length."""

    start: int
    end: int
    points: int
    pattern: Pattern


def _lines(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line


@cache
def _shipped() -> Common:
    """Return the list that comes with the service. Read once: a process may build many services, as the tests do."""
    return Common(_lines(COMMON))


def _skeleton(text: str) -> str:
    """Return the text without case, compatibility forms and separators."""
    folded = unicodedata.normalize("NFKC", text[:_MOST_CHARACTERS]).casefold()
    return _SEPARATORS.sub("", folded)[:_MOST_CHARACTERS]  # some forms are eighteen characters when folded


def _personal(spellings: Iterable[str], about: Iterable[str]) -> Iterator[_Piece]:
    """Find what the owner and the service are called, in whole and in parts."""
    names: dict[str, None] = {}
    for known in about:
        parts = _WORDS.findall(unicodedata.normalize("NFKC", known[:_MOST_CHARACTERS]).casefold())
        local = known.partition("@")[0]
        names |= dict.fromkeys((_skeleton(known), _skeleton(local), *parts))
    wanted = [name for name in names if len(name) >= _SHORTEST_PERSONAL][:_MOST_PERSONAL]
    for text in spellings:
        for name in wanted:
            start = text.find(name)
            while start >= 0:
                yield _Piece(start, start + len(name), 0, Pattern.PERSONAL)
                start = text.find(name, start + 1)


def _years(text: str) -> Iterator[_Piece]:
    for match in _YEAR.finditer(text):
        yield _Piece(match.start(), match.start() + 4, _YEAR_POINTS, Pattern.ENDS)


def _predicted(text: str) -> list[Pattern | None]:
    """Return for each character what foretells it from those before it, if anything does."""
    found: list[Pattern | None] = [None] * len(text)
    for start, end in _runs(text):
        found[start + 1 : end] = [Pattern.RUN] * (end - start - 1)
    seen: dict[str, int] = {}
    for start in range(len(text) - _REPEATED + 1):
        part = text[start : start + _REPEATED]
        if part in seen:
            found[start : start + _REPEATED] = [before or Pattern.REPEAT for before in found[start : start + _REPEATED]]
        seen.setdefault(part, start)
    _decorate(text, found)
    return found


def _runs(text: str) -> Iterator[tuple[int, int]]:
    """Yield where characters follow each other: alike, in order, or side by side on a keyboard."""
    start = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or not _follows(text[end - 1], text[end]):
            if end - start >= _SHORTEST_RUN:
                yield start, end
            start = end


def _follows(one: str, other: str) -> bool:
    return abs(ord(one) - ord(other)) <= 1 or one + other in _NEIGHBOURS


def _decorate(text: str, found: list[Pattern | None]) -> None:
    """Make digits and signs before the first letter, and after the last one, worth little in sum."""
    letters = [place for place, character in enumerate(text) if character.isalpha()]
    if not letters:
        return
    for places in (range(letters[0]), range(letters[-1] + 1, len(text))):
        worth = [place for place in places if found[place] is None]
        for place in worth[_MOST_DECORATION:]:
            found[place] = Pattern.ENDS


def _lightest(length: int, pieces: Iterable[_Piece], predicted: list[Pattern | None]) -> Weight:
    """Return the least that the text is worth, over all ways to take it apart."""
    steps: list[list[_Piece]] = [[] for _ in range(length)]
    for piece in pieces:
        steps[piece.start].append(piece)
    best: list[tuple[int, frozenset[Pattern]] | None] = [None for _ in range(length + 1)]
    best[0] = (0, frozenset())
    for place in range(length):
        here = best[place]
        if here is None:
            continue
        pattern = predicted[place]
        _relax(best, place + 1, here, 0 if pattern else 1, pattern)
        for piece in steps[place]:
            _relax(best, piece.end, here, piece.points, piece.pattern)
    points, patterns = best[length] or (0, frozenset())
    return Weight(points, tuple(pattern for pattern in Pattern if pattern in patterns))


def _relax(
    best: list[tuple[int, frozenset[Pattern]] | None],
    place: int,
    here: tuple[int, frozenset[Pattern]],
    points: int,
    pattern: Pattern | None,
) -> None:
    """Note a way to `place` if it is the lightest so far."""
    total, before = here[0] + points, best[place]
    if before is None or total < before[0]:
        best[place] = (total, here[1] | {pattern} if pattern else here[1])
