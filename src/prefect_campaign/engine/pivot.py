"""What a PIVOT at the gate asks to change, and the spec that comes of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from prefect_campaign.engine.checking import check_spec
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.load import load_campaign
from prefect_campaign.model.plan import make_plan
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.template import fields_of


def parse_changes(entries: Sequence[str]) -> dict[str, Any]:
    """``["epochs=20"]`` -> ``{"epochs": 20}``; values are read as YAML scalars.

    Raises:
        Refused: an entry is not ``name=value``.
    """
    found: dict[str, Any] = {}
    for entry in entries:
        name, sign, text = entry.partition("=")
        name = name.strip()
        if not sign or not name.isidentifier():
            raise Refused(f"changes: {entry!r} is not of the form name=value")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):  # the latter from an impossible date
            value = text
        if not isinstance(value, str | int | float | bool):
            raise Refused(f"changes: {entry!r}: the value must be one number, text or true/false")
        found[name] = value
    return found


def changed_campaign(campaign: Campaign, changes: Mapping[str, Any]) -> Campaign:
    """The spec with the changes made: a swept parameter takes the one new value, any other is set in `args`.

    Raises:
        Refused: a change names no parameter of the command, makes the spec invalid, or changes nothing.
    """
    data: dict[str, Any] = campaign.model_dump(mode="json")
    axes = data["sweep"].get("grid") or data["sweep"].get("zip") or {}
    known = {*axes, *data["args"], *fields_of(campaign.command)}
    unknown = next((name for name in changes if name not in known), None)
    if unknown:
        raise Refused(f"changes: {unknown!r} is no parameter of this campaign; it has {', '.join(sorted(known))}")
    for name, value in changes.items():
        if name in axes:
            axes[name] = [value]
            continue
        for stage in [*data["pilot"], data["full"]]:
            if name in stage["args"]:
                stage["args"][name] = value
        data["args"][name] = value
    try:
        changed = load_campaign(data)
        plan = check_spec(changed)
    except Refused as error:
        raise Refused(f"changes: {error}") from None
    if plan.plan_hash == make_plan(campaign).plan_hash:
        raise Refused("changes: the plan stays as it is; change a parameter, or give none and edit the spec")
    return changed
