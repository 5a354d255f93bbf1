"""Errors, named after what the caller does next."""


class CampaignError(Exception):
    """Base of every error this project raises on purpose.

    The message is one line for people: what happened, where, and what to do.
    """


class Transient(CampaignError):  # noqa: N818 - named by what to do next, not by suffix
    """It did not happen, and it may work later: try again."""


class Driven(Transient):
    """Another living process drives the campaign: leave it alone."""


class NoRoom(Transient):
    """A queue takes no more jobs for now: that is waiting, and no trouble."""


class Refused(CampaignError):  # noqa: N818
    """The request itself is wrong: tell the person, do not try again."""


class Unknown(CampaignError):  # noqa: N818
    """It may have happened: look at the outside world first, then decide."""


class Fenced(CampaignError):  # noqa: N818
    """Another dispatcher owns the campaign now: stop at once and change nothing."""


class LedgerDamaged(Refused):
    """The ledger cannot be read; its path is in the message and nothing was changed."""
