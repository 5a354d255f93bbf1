"""Short runs that show how much GPU memory experiments of a shape need, before the first of them starts.

Why it is done this way: docs/decisions/0006-gpus.md.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from prefect_campaign.decide.vram import Shape
from prefect_campaign.engine.attempts import run_dir_of, spec_from
from prefect_campaign.engine.hold import Hold
from prefect_campaign.engine.hosts import Hosts
from prefect_campaign.engine.memory import command_values, memory_of
from prefect_campaign.engine.preflight import POLL_SECONDS, busy_for
from prefect_campaign.engine.probe import Placed, Probe
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.ledger import probes
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.leases import Claim, held
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import Fenced, Refused, Transient
from prefect_campaign.model.ids import digest, token
from prefect_campaign.model.records import AttemptSpec, ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.template import fill, words_of

LIMIT_SECONDS = 600.0
"""A probe that takes longer is stopped."""
SAMPLE_SECONDS = 0.2
"""How often its memory is looked at on this machine: it may be over soon."""
FAR_SECONDS = 1.0  # the same on other hosts

log = logging.getLogger("prefect_campaign")


class Prober:
    """The probes of one dispatcher.

    Args:
        hold: the campaign.
        home: where run dirs are.
        campaign: the spec.
        row: the round.
        hosts: looks at the GPUs.
        launcher: runs the jobs.
    """

    def __init__(
        self, hold: Hold, home: Home, campaign: Campaign, row: CampaignRow, hosts: Hosts, launcher: Launcher
    ) -> None:
        self._hold = hold
        self._home = home
        self._campaign = campaign
        self._row = row
        self._hosts = hosts
        self._launcher = launcher
        self._extra = campaign.resources.probe or []
        self._results: dict[str, int | None] = {}
        self._open: dict[str, Probe] = {}
        self._begun: list[Probe] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers: dict[str, int] = {}
        """How many probes of a key this round had: each has a run dir of its own."""

    # -- for placement ------------------------------------------------------------------------------------------

    def peak(self, shape: Shape) -> int | None:
        """MiB that the probe of a shape has shown; None if there was none, or it failed."""
        return self._results.get(self._key(shape)) if self._extra else None

    def lacks(self, view: ExperimentView, shape: Shape) -> bool:
        """Whether the shape of an experiment is to be probed, or is being probed."""
        if not self._extra or self._key(shape) in self._results:
            return False
        # Optuna chooses some parameters at the launch: until then there is no command to probe.
        search = self._campaign.sweep.optuna_search
        return search is None or set(search.space) <= set(view.params)

    def runs(self, shape: Shape) -> bool:
        """Whether a shape is being probed."""
        return self._key(shape) in self._open

    def skip(self, connection: Connection, view: ExperimentView, shape: Shape, now: float) -> None:
        """A person does not want a shape to be probed."""
        data = {"key": (key := self._key(shape)), "token": "", "peak": None, "stopped": False}
        why = "probe: skipped by a person; the next best source is taken"
        probes.end(connection, self._row.id, view.exp_id, "", data, why, now)
        self._results[key] = None

    def begin(self, connection: Connection, wanted: Sequence[Placed], now: float) -> None:
        """Lease the GPUs of probes and write down what is about to run; `step` starts them once that is durable.

        Raises:
            Stale: a GPU was taken meanwhile; none is begun.
        """
        begun = []
        for one in wanted:
            host, gpus, exp_id = one.place.host, one.place.devices, one.view.exp_id
            number = self._numbers.get(key := self._key(one.shape), 0)
            spec = replace(self._spec(one.view, key, number), host=host, gpus=gpus)
            claim = Claim(host, gpus, spec.token, one.vram_mb, one.shared, run_dir=spec.run_dir)
            data = {"key": key, "launcher": self._hosts.launcher(host), "spec": vars(spec), "anyway": one.anyway}
            probes.begin(connection, self._row.id, exp_id, claim, data, now)
            begun.append((Probe(key, spec, exp_id, self._row.id, now, anyway=one.anyway), number))
        for probe, number in begun:
            self._numbers[probe.key] = number + 1
            self._begun.append(probe)

    # -- for the dispatcher -------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """How many are under way and worth waiting for; one that cannot be stopped, on a host that is away, is not."""
        now = self._hold.now()
        return sum(now - one.since < 2 * LIMIT_SECONDS for one in self._open.values())

    def adopt(self, *, stop: str = "") -> None:
        """Read what earlier probes have shown, and go on with those that are not over.

        Args:
            stop: why none may go on; empty: those of this round may.
        """
        if not self._campaign.resources.gpus:
            return
        with Reader(self._hold.ledger.url) as reader:
            rows = probes.events_of_campaign(reader, self._campaign.name)
        left: dict[str, Probe] = {}
        for row in rows:
            key, campaign_id = row["data"]["key"], row["campaign_id"]
            if row["kind"] == probes.BEGUN:
                spec = spec_from(row["data"]["spec"])
                left[spec.token] = Probe(
                    key, spec, row["exp_id"], campaign_id, row["at"], anyway=row["data"].get("anyway", False)
                )
                self._numbers[key] = self._numbers.get(key, 0) + (campaign_id == self._row.id)
            elif row["kind"] == probes.SEEN and row["data"]["token"] in left:
                left[row["data"]["token"]].peak = row["data"]["peak"]
            elif row["kind"] == probes.ENDED:
                left.pop(row["data"]["token"], None)
                if not row["data"]["stopped"]:
                    self._results[key] = row["data"]["peak"]
        for one in left.values():
            one.stop = stop or ("" if one.campaign_id == self._row.id else "its round is over")
            self._go_on(one)

    def step(self) -> None:
        """Start what was begun."""
        begun, self._begun = self._begun, []
        if begun:
            crash_point("probe_recorded")
        for one in begun:
            self._go_on(one)

    async def settle(self) -> None:
        """Wait until the jobs of all probes run, or are known not to be able to run yet."""
        await asyncio.gather(*(one.begun.wait() for one in self._open.values()))

    async def cancel_all(self, why: str) -> None:
        """Stop all of them."""
        for one in self._open.values():
            one.stop = why
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Stop watching; what runs goes on, and whoever drives the campaign next finds it by its token."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _go_on(self, one: Probe) -> None:
        self._open[one.key] = one
        task = asyncio.create_task(self._run(one))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- one probe ----------------------------------------------------------------------------------------------

    async def _run(self, one: Probe) -> None:
        try:
            failure, said = None, ""
            while failure is None:
                pause = SAMPLE_SECONDS if self._is_here(one.spec.host) else FAR_SECONDS
                try:
                    failure = await self._step(one)
                except Fenced:
                    raise
                except Exception as error:  # whatever it is: the job may run, so its lease stays until it is over
                    pause = POLL_SECONDS
                    if str(error) != said:
                        log.warning("%s: cannot go on now: %s", one.spec.token, said := str(error))
                one.begun.set()
                if failure is None:
                    await asyncio.sleep(pause)
            await self._end(one, failure)
        except Fenced as error:
            log.warning("%s: left to another dispatcher: %s", one.spec.token, error)
        finally:
            one.begun.set()

    async def _step(self, one: Probe) -> str | None:
        """Go on with it; why it failed once it is over (empty: it did not), None until then.

        Raises:
            Transient: not now.
            Unknown: it may have been started: look again.
        """
        if not one.stop and self._hold.now() - one.since > LIMIT_SECONDS:
            one.late, one.stop = True, f"took more than {LIMIT_SECONDS / 60:g} minutes"
            self._results[one.key] = None  # the shape need not wait until it can be stopped
        if one.handle is None:
            one.handle = await self._launcher.find(one.spec)
        if one.handle is None:
            if one.stop:
                return one.stop
            view = await self._hosts.look_at(one.spec.host)
            with self._hold.ledger.read() as connection:
                why = busy_for(one.spec, view, held(connection, [one.spec.host]))
            if why and not one.anyway:
                raise Transient(why)
            try:
                one.handle = await self._launcher.submit(one.spec)
            except Refused as error:
                return str(error)
        else:
            await self._look(one)
        seen = (await self._launcher.observe([(one.spec, one.handle)]))[one.spec.token]
        if seen.status == "exited":
            return one.stop or (f"ended with exit code {seen.exit_code}" if seen.exit_code else "")
        if seen.status == "gone":
            return one.stop or "is gone without an exit record"
        if one.stop:
            await self._launcher.cancel(one.spec, one.handle)
        return None

    async def _look(self, one: Probe) -> None:
        """See what it takes now."""
        view = await self._hosts.look_at(one.spec.host)
        most = max((memory_of(g, one.spec.run_dir) or 0 for g in view.gpus if g.uuid in one.spec.gpus), default=0)
        if most > one.peak:
            one.peak = most
            data = {"key": one.key, "token": one.spec.token, "peak": most}
            with self._hold.write() as connection:
                probes.seen(connection, one.campaign_id, one.exp_id, data, self._hold.now())
            crash_point("probe_peak_recorded")

    async def _end(self, one: Probe, failure: str) -> None:
        crash_point("probe_exit_seen")
        failure = failure or ("" if one.peak else "was never seen on a GPU")
        peak = None if failure else one.peak
        why = f"probe: {failure}; the next best source is taken" if failure else f"probe: {peak} MiB"
        if failure:
            log.warning("%s: its memory could not be probed: %s", one.exp_id, failure)
        stopped = bool(one.stop) and not one.late
        data = {"key": one.key, "token": one.spec.token, "peak": peak, "stopped": stopped}
        while True:
            try:
                with self._hold.write() as connection:
                    probes.end(connection, one.campaign_id, one.exp_id, one.spec.token, data, why, self._hold.now())
                break
            except Transient as error:
                log.warning("%s: its end cannot be recorded now: %s", one.spec.token, error)
                await asyncio.sleep(FAR_SECONDS)
        crash_point("probe_ended")
        if not stopped:
            self._results[one.key] = peak
        del self._open[one.key]
        self._hosts.outdated()
        self._hosts.on_news()

    def _key(self, shape: Shape) -> str:
        command = [words_of(self._campaign.command), self._campaign.env, self._extra]
        return digest([command, shape.params, shape.gpus, shape.changes], 16)

    def _spec(self, view: ExperimentView, key: str, number: int) -> AttemptSpec:
        """The experiment's command with the extra arguments, under a name and in folders of its own."""
        name, round_ = self._campaign.name, self._row.round
        exp_id = f"{view.exp_id}.probe-{key[:8]}"
        run_dir = str(run_dir_of(self._home, name, round_, exp_id, number))
        values = command_values(self._campaign, view.params, view.seed, run_dir, exp_id, number)
        return AttemptSpec(
            exp_id=exp_id,
            attempt=number,
            token=token(name, round_, exp_id, number),
            argv=(*fill(self._campaign.command, values), *self._extra),
            env={**self._campaign.env, "WANDB_MODE": "disabled"},
            workdir=self._campaign.workdir,
            run_dir=run_dir,
            params=dict(view.params),
            seed=view.seed,
        )

    def _is_here(self, host: str) -> bool:
        return any(v.host == host and v.launcher.startswith("local") for v in self._hosts.views)
