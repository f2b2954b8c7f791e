"""What a logged-in user sees of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.errors import CredentialsInvalid, UserNotFound
from service.users.model import User, UserId

if TYPE_CHECKING:
    from service.access import Principal
    from service.users.directory import Directory


class Profile:
    """Reads the caller's own account."""

    def __init__(self, *, directory: Directory) -> None:
        self._directory = directory

    async def of(self, principal: Principal) -> User:
        """Return the caller's account.

        Raises:
            CredentialsInvalid: the account is gone or may no longer log in, so its token is worth nothing.

        """
        try:
            user = await self._directory.get(UserId.parse(principal.subject))
        except UserNotFound as error:
            raise CredentialsInvalid from error
        if not user.may_log_in:
            raise CredentialsInvalid
        return user
