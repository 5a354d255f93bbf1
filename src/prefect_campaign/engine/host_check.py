"""The environment check of one host: its code, the command's program, its GPUs, a dry run; at most three mendings."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from prefect_campaign.engine.attempts import first_spec
from prefect_campaign.engine.batch import Batch
from prefect_campaign.engine.check_jobs import check_id, dry_run_spec, program_spec
from prefect_campaign.engine.check_run import LIMIT_SECONDS, LOOK_SECONDS, CheckRun, Needless
from prefect_campaign.engine.hold import Hold
from prefect_campaign.engine.hosts import Hosts
from prefect_campaign.engine.preflight import busy, tenants
from prefect_campaign.engine.process import identity_alive
from prefect_campaign.heal.diagnosis import diagnose
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.ledger import host_checks, leases
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.host_checks import CHECKING, FAILED, READY, CheckRow
from prefect_campaign.ledger.location import Home
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Evidence, ExperimentView, Observation
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.text import printable
from prefect_campaign.placement.demand import Demand, Rules
from prefect_campaign.placement.place import place
from prefect_campaign.placement.room import count_of, rooms
from prefect_campaign.watch.logs import tail

PAUSES = (10.0, 30.0, 60.0)
"""Seconds before each fix attempt, in which the code is sent again and everything is looked at again."""
PATIENCE_SECONDS = 1800.0
"""A host that is away is waited for so long."""
REACH, CODE, PROGRAM, GPUS, DRY_RUN = "reach", "code", "program", "GPUs", "dry run"
PASSED, NOT_PASSED, LEFT_OUT = "passed", "failed", "left out"

log = logging.getLogger("prefect_campaign")


@dataclass(frozen=True)
class Site:
    """What checks work with: one dispatcher's campaign and machines."""

    hold: Hold
    home: Home
    campaign: Campaign
    row: CampaignRow
    launcher: Launcher
    hosts: Hosts
    batch: Batch
    rules: Rules
    memory: Callable[[ExperimentView], int | None]
    """MiB of each GPU that the next attempt of an experiment is to get; None: all of it."""


class HostCheck:
    """One check of one host.

    Args:
        site: the dispatcher's things.
        host: whose environment.
        code_hash: state of the code.
        key: digest of what else is checked.
        needless: whether nobody wants to know any more.
    """

    def __init__(self, site: Site, host: str, code_hash: str, key: str, needless: Callable[[], bool]) -> None:
        self.doing = "is checked before its first use"
        """For people."""
        self._host = host
        self._site = site
        self._hold = site.hold
        self.code_hash = code_hash
        """State of the code that is checked."""
        self._key = key
        self._needless = needless
        self._steps: list[dict[str, str]] = []
        self._since = site.hold.now()

    async def run(self) -> CheckRow:
        """Check the host, or wait for what another campaign's check of just this comes to.

        Raises:
            Needless: it was given up; no job of it runs.
            Fenced: another dispatcher took over.
        """
        row, fixes = await self._claimed(), 0
        while row.state == CHECKING:
            name = self._site.hosts.launcher(self._host)
            run = CheckRun(self._hold, self._site.launcher, name, row, self._needless)
            self._steps, away = [], ""
            try:
                await self._look(run)
                return self._concluded(run, READY)
            except Refused as error:
                self._note(self._at, NOT_PASSED, str(error))
                return self._concluded(run, FAILED)
            except leases.Stale:
                row = await self._claimed()
                continue
            except (Transient, Unknown, OSError) as error:
                away = (await self._seen()).problem
                self._note(REACH if away else self._at, NOT_PASSED, away or str(error))
            row, fixes = run.row, fixes + (not away)  # a host that is away is not mended, but waited for
            if fixes > len(PAUSES) or (away and self._hold.now() - self._since > PATIENCE_SECONDS):
                return self._concluded(run, FAILED)
            self.doing = f"is checked again soon: {self._steps[-1]['detail']}"
            log.info("host %s: %s", self._host, self.doing)
            await asyncio.sleep(PAUSES[min(max(fixes - 1, 0), len(PAUSES) - 1)])
        return row

    async def _look(self, run: CheckRun) -> None:
        """All steps, in their order."""
        # A dry run that an earlier process began: what comes before it had passed.
        if run.step != DRY_RUN:
            self._begin(CODE)
            await self._program(run)
        self._begin(GPUS)
        view = await self._seen()
        why = view.problem or (view.gpu_problem if self._site.campaign.resources.gpus else "")
        if why:
            raise Transient(why)
        self._note(GPUS, PASSED, gpus_of(view, self._site.campaign.resources.gpus, self._site.rules))
        self._begin(DRY_RUN)
        if self._site.campaign.policy.dry_run is None:
            self._note(DRY_RUN, LEFT_OUT, "policy.dry_run names no arguments for one")
        else:
            await self._dry_run(run)

    async def _program(self, run: CheckRun) -> None:
        """The code is sent with whatever starts there; what starts is a look for the program."""
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                spec, seen = await run.job(PROGRAM, lambda _: (program_spec(self._spec(run.row)), None))
        except TimeoutError:
            raise Refused(f"could not be sent and started within {LIMIT_SECONDS / 60:g} min") from None
        self._note(CODE, PASSED, f"{self._site.campaign.workdir} as of {self.code_hash[:8] or 'now'}")
        self._begin(PROGRAM)
        said = printable(tail(self._site.launcher.logs(spec)[0], max_lines=1)) or seen.detail
        if seen.exit_code == 0:
            self._note(PROGRAM, PASSED, said)
        elif seen.exit_code == 1 and said:
            raise Refused(said)
        else:
            raise self._ended_badly(spec, seen)

    async def _dry_run(self, run: CheckRun) -> None:
        def give(connection: Connection) -> tuple[AttemptSpec, leases.Claim]:
            spec, claim = dry_run_spec(self._spec(run.row), arguments), self._claim(connection, view, run.row)
            gpus = claim.devices if self._site.campaign.resources.gpus else ()
            return replace(spec, gpus=gpus, vram_mb=claim.vram_mb), claim

        arguments = self._site.campaign.policy.dry_run or []
        while True:
            view = await self._seen()
            try:
                spec, seen = await run.job(DRY_RUN, give)
                break
            except _NoDevice as error:
                self.doing = f"is checked; {error}"
                if self._needless():
                    raise Needless from None
                await asyncio.sleep(LOOK_SECONDS)
        if seen.exit_code != 0:
            raise self._ended_badly(spec, seen)
        self._note(DRY_RUN, PASSED, " ".join(arguments))

    def _spec(self, row: CheckRow) -> AttemptSpec:
        """The command of an experiment that waits, in a run dir and with checkpoints of the check's own."""
        site, check = self._site, check_id(self._host, self.code_hash, self._key)
        history = site.batch.history() if site.campaign.sweep.optuna_search else []
        view = replace(self._experiment(), exp_id=check)
        spec = first_spec(site.campaign, site.row.round, site.home, view, row.tries + 1, history)
        return replace(spec, host=self._host)

    def _claim(self, connection: Connection, view: HostView, row: CheckRow) -> leases.Claim:
        """Devices of the host for a dry run, as an experiment would get them.

        Raises:
            _NoDevice: they are in use now.
        """
        site, gpus = self._site, self._site.campaign.resources.gpus
        leases.lock(connection)
        taken = leases.held(connection, [view.host])
        occupied = {(view.host, g.uuid) for g in view.gpus if busy(g, tenants(taken, view.host, g.uuid))}
        vram = site.memory(self._experiment()) if gpus else None
        demand = Demand(DRY_RUN, gpus, vram, slots=site.campaign.resources.cpus or 1, avoid=frozenset(occupied))
        found = place([demand], [view], site.hosts.held(taken), site.rules, self._hold.now(), site.hosts.extra)
        if found.never:
            raise Refused(found.reasons[DRY_RUN])
        if not found.assignments:
            raise _NoDevice(f"its dry run waits for {count_of(gpus, 'free GPU') if gpus else 'free slots'}")
        devices, spec = found.assignments[0].devices, self._spec(row)
        shared = site.rules.share and vram is not None
        return leases.Claim(view.host, devices, spec.token, vram, shared=shared, run_dir=spec.run_dir)

    def _experiment(self) -> ExperimentView:
        view = next(iter(self._site.batch.waiting.values()), None)
        if view is None:
            raise Needless
        return view

    # -- what is on record --------------------------------------------------------------------------------------

    async def _claimed(self) -> CheckRow:
        """The check, made this campaign's own; not while a living dispatcher is at it: then it is waited for."""
        while True:
            try:
                with self._hold.write() as connection:
                    row = host_checks.claim(
                        connection,
                        self._hold.campaign_id,
                        self._host,
                        self.code_hash,
                        self._key,
                        now=self._hold.now(),
                        alive=identity_alive,
                    )
                crash_point("check_claimed")
                if row.state != CHECKING or row.campaign_id == self._hold.campaign_id:
                    return row
                self.doing = "is checked by another campaign"
            except leases.Stale:
                pass
            if self._needless():
                raise Needless
            await asyncio.sleep(LOOK_SECONDS)

    def _concluded(self, run: CheckRun, state: str) -> CheckRow:
        with self._hold.write() as connection:
            row = host_checks.conclude(connection, run.row, state, self._steps, self._hold.now())
        crash_point("check_concluded")
        return row

    # -- small things -------------------------------------------------------------------------------------------

    async def _seen(self) -> HostView:
        try:
            return await self._site.hosts.look_at(self._host)
        except (Transient, Unknown, Refused, OSError) as error:
            return HostView(self._host, 0, problem=str(error))

    def _begin(self, step: str) -> None:
        if self._needless():
            raise Needless
        self._at = step
        self.doing = f"is checked: {step}"

    def _note(self, step: str, state: str, detail: str) -> None:
        self._steps.append({"step": step, "state": state, "detail": detail})

    def _ended_badly(self, spec: AttemptSpec, seen: Observation) -> Refused | Transient:
        """Trouble if it was lost or killed; else the command itself does not work there."""
        out, err = self._site.launcher.logs(spec)
        evidence = Evidence(
            seen.exit_code,
            signal=seen.signal,
            recorded=seen.status == "exited",
            stderr_tail=tail(err),
            stdout_tail=tail(out),
        )
        why = diagnose(evidence)
        said = why.evidence if why.signature == "unknown" else f"{why.cause.rstrip('.')} ({why.evidence})"
        said = f"{printable(said)}; see {spec.run_dir}"
        return Transient(said) if seen.status == "gone" or seen.signal is not None else Refused(said)


class _NoDevice(Transient):
    """There is none for the dry run now."""


def gpus_of(view: HostView, wanted: int, rules: Rules) -> str:
    """What GPUs the host has for experiments that want so many, in words.

    Raises:
        Refused: too few that could be used one day.
    """
    if not wanted:
        return f"none needed; {count_of(view.slots, 'slot')}"
    (room,) = rooms([view], (), rules, {})
    usable = len(room.gpus) - room.keep
    if usable >= wanted:
        return f"{usable} of {len(view.gpus)} can be used, driver {view.driver or '?'}"
    closed = [f"{n} {why}" for why, n in room.closed.items()] + ([f"{room.keep} kept free"] if room.keep else [])
    raise Refused(
        f"needs {count_of(wanted, 'GPU')} on one host, and {max(usable, 0)} of {len(view.gpus)} can be used"
        + (f" ({'; '.join(closed)})" if closed else "")
    )
