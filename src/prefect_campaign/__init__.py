"""prefect-campaign: GPU experiment campaigns as Prefect flows."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_campaign.model.spec import (
        Budget,
        Campaign,
        Check,
        Group,
        Objective,
        Policy,
        Publish,
        Resources,
        Stage,
        Tracking,
    )
    from prefect_campaign.model.sweep import Range, Sweep

__all__ = [
    "Budget",
    "Campaign",
    "Check",
    "Group",
    "Objective",
    "Policy",
    "Publish",
    "Range",
    "Resources",
    "Stage",
    "Sweep",
    "Tracking",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazy, so that `campaign status` does not pay for what it does not use.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prefect_campaign.model import spec, sweep

    return getattr(spec if hasattr(spec, name) else sweep, name)
