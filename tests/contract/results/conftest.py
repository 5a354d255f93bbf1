"""The campaign and the makers of the unit tests of the results."""

from unit.results.conftest import campaign, hostile, make_campaign_with, view

__all__ = ["campaign", "hostile", "make_campaign_with", "view"]
