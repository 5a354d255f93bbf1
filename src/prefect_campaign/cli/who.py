"""Whose word it is that is given on the command line."""

import getpass

from prefect_campaign.model.errors import Refused


def person(by: str) -> str:
    """The name given by ``--by``; default: the logged-in user.

    Raises:
        Refused: neither is there.
    """
    try:
        return by.strip() or getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        raise Refused("by: the name of the person who decides is needed; give it by --by") from None
