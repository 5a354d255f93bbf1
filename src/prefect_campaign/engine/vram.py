"""GPU memory of one campaign: what its experiments are said to need, and what they are seen to take."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from sqlalchemy import Connection

from prefect_campaign.decide.vram import (
    Estimate,
    Shape,
    Used,
    estimate,
    hint_of,
    measured,
    seen_enough,
    shape_of,
    used_of,
)
from prefect_campaign.decide.vram_formula import by_formula
from prefect_campaign.engine.batch import Batch
from prefect_campaign.engine.hold import Hold
from prefect_campaign.engine.hosts import Hosts
from prefect_campaign.engine.memory import memory_of, same_command
from prefect_campaign.engine.probing import Prober
from prefect_campaign.ledger import vram
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.events import add_events
from prefect_campaign.ledger.experiments import Outcome
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.records import AttemptSpec, ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import AttemptState

NEWS = 1.05
"""A peak that grew by this factor is written down while the attempt runs, so that a crash does not lose it."""


class Vram:
    """Learns the memory of a campaign's shapes from its attempts, of all rounds and stages.

    Args:
        hold: the campaign.
        campaign: the spec.
        row: the round.
        hosts: its machines; every look at them is taken in.
        batch: knows how the next attempt of an experiment was changed.
        prober: knows what probes have shown.
    """

    def __init__(
        self, hold: Hold, campaign: Campaign, row: CampaignRow, hosts: Hosts, batch: Batch, prober: Prober
    ) -> None:
        self._prober = prober
        self._hosts = hosts
        hosts.on_seen = self.seen
        self._hold = hold
        self._campaign = campaign
        self._row = row
        self._batch = batch
        self._wanted = campaign.resources
        self._past: dict[Shape, list[Used]] = {}
        self._planned: dict[str, Shape] = {}
        """exp_id -> its shape before any fix."""
        self._live: dict[str, AttemptSpec] = {}
        self._peaks: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._looks: dict[str, int] = {}
        """How often each was seen on a GPU, by this process."""
        self._last_look: dict[str, float] = {}
        self._over: list[tuple[AttemptSpec, Callable[[float], dict[str, Any]]]] = []

    def load(self) -> None:
        """Read what earlier attempts took."""
        if not self._wanted.gpus:
            return
        with Reader(self._hold.ledger.url) as reader:
            rows = vram.attempts_of_campaign(reader, self._campaign.name)
        self._past, self._planned = {}, {}
        other: set[tuple[int, str]] = set()
        for row in rows:
            used, which = used_of(row, self._wanted.vram_params), (row["campaign_id"], row["exp_id"])
            if not used.shape.changes:
                # A changed attempt belongs to the command of the one that it changed.
                (other.discard if same_command(self._campaign, row["spec"]) else other.add)(which)
            if which in other:
                continue
            if row["campaign_id"] == self._row.id and not used.shape.changes:
                self._planned[row["exp_id"]] = used.shape
            if row["state"] not in (AttemptState.LAUNCHING, AttemptState.RUNNING):
                self._past.setdefault(used.shape, []).append(used)
            elif used.peak_mb is not None:
                self._peaks[row["token"]] = self._written[row["token"]] = used.peak_mb

    def estimate(self, view: ExperimentView) -> Estimate:
        """How much memory the next attempt of an experiment is to get on each GPU."""
        healed = self._batch.healed(view.exp_id, view.attempt + 1)
        params, changes = (healed["params"], healed["changes"]) if healed else (view.params, ())
        wanted = self._wanted
        shape = shape_of(params, wanted.gpus, changes, wanted.vram_params)
        base = self._planned.get(view.exp_id)
        return estimate(
            shape,
            self._past,
            base=base,
            probed=self._prober.peak(base if shape.changes and base else shape),
            formula=by_formula(wanted.network, params, wanted.gpus) if wanted.network else None,
            declared=self._wanted.declared_mb,
        )

    def unprobed(self, views: Iterable[ExperimentView]) -> dict[str, Shape]:
        """exp_id -> shape of those that must wait, as their shape is to be probed first."""
        found: dict[str, Shape] = {}
        for view in views if self._wanted.probe else ():
            changed = self._batch.healed(view.exp_id, view.attempt + 1) is not None
            shape = shape_of(view.params, self._wanted.gpus, (), self._wanted.vram_params)
            if not changed and self._prober.lacks(view, shape) and measured(self._past.get(shape, ())) is None:
                found[view.exp_id] = shape
        return found

    # -- what attempts are seen to take -------------------------------------------------------------------------

    def follow(self, spec: AttemptSpec) -> None:
        """An attempt runs: its memory is noted from now on."""
        if spec.gpus:
            self._live[spec.token] = spec

    def seen(self, views: Iterable[HostView]) -> None:
        """Take in a look at the hosts."""
        gpus = {(view.host, gpu.uuid): gpu for view in views if not view.problem for gpu in view.gpus}
        for token, spec in self._live.items():
            # Only where it has a lease: the run dir says whose a process is, not where it may be.
            on = (gpus[spec.host, uuid] for uuid in spec.gpus if (spec.host, uuid) in gpus)
            most = max((memory_of(gpu, spec.run_dir) or 0 for gpu in on), default=0)
            if most:
                self._looks[token] = self._looks.get(token, 0) + 1
                self._last_look[token] = self._hold.now()
            if most > self._peaks.get(token, 0):
                self._peaks[token] = most

    def ended(self, spec: AttemptSpec, outcome: Outcome) -> None:
        """An attempt is over: the next estimate of its shape knows what it took; `record` writes it down."""
        if self._live.pop(spec.token, None) is None:
            return
        peak = self._peaks.get(spec.token)
        shape = shape_of(spec.params, len(spec.gpus), spec.changes, self._wanted.vram_params)
        if not shape.changes:
            self._planned[spec.exp_id] = shape
        looks, last = self._looks.pop(spec.token, 0), self._last_look.pop(spec.token, None)
        done = outcome.attempt_state == AttemptState.DONE
        oom = outcome.diagnosis is not None and outcome.diagnosis.signature == "cuda_oom"
        whole = done and seen_enough(looks, last, outcome.started_at, outcome.ended_at)
        used = Used(shape, spec.vram_mb, peak, whole=whole, oom=oom)
        self._past.setdefault(shape, []).append(used)
        self._over.append((spec, partial(self._compared, spec, peak, looks, last)))

    def record(self, connection: Connection, now: float) -> None:
        """Write down the peaks, and of attempts that are over how they compare, in the transaction that closes them."""
        vram.record_peaks(connection, {t: mb for t, mb in self._peaks.items() if mb > self._written.get(t, 0)})
        self._written |= self._peaks
        over, self._over = self._over, []
        add_events(connection, [event(now) for _, event in over])
        for spec, _ in over:
            self._peaks.pop(spec.token, None)
            self._written.pop(spec.token, None)

    def look(self, now: float) -> None:
        """Have the hosts looked at again while attempts run there, and write down peaks that grew much."""
        if self._live:
            self._hosts.refresh()
        if any(mb > NEWS * self._written.get(token, 0) for token, mb in self._peaks.items()):
            with self._hold.write() as connection:
                self.record(connection, now)

    def _compared(
        self, spec: AttemptSpec, used: int | None, looks: int, last: float | None, now: float
    ) -> dict[str, Any]:
        declared = self._wanted.declared_mb
        leased = "a whole GPU" if spec.vram_mb is None else f"{spec.vram_mb} MiB"
        taken = "not seen on it" if used is None else f"used {used} MiB"
        why = hint_of(declared, spec.vram_mb, used) or f"leased {leased}, {taken}"
        data = {"declared": declared, "leased": spec.vram_mb, "used": used}
        return vram.compared(self._hold.campaign_id, spec, why, data, looks, last, now)
