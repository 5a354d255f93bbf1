"""Which hosts are fit to run a campaign's experiments: each is checked before its first use and when the code changed.

Checks run beside the dispatcher, all hosts at once. Until its check has passed nothing is placed on a host.
"""

import asyncio
import logging
from collections import Counter
from pathlib import Path

from prefect_campaign.engine.batch import Batch
from prefect_campaign.engine.beside import stop
from prefect_campaign.engine.check_run import Needless, sweep
from prefect_campaign.engine.hold import Hold
from prefect_campaign.engine.host_check import NOT_PASSED, REACH, HostCheck, Site
from prefect_campaign.engine.hosts import Hosts
from prefect_campaign.engine.planning import rules_of
from prefect_campaign.engine.process import identity_alive
from prefect_campaign.engine.vram import Vram
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.identity import LOCAL
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.launch.ssh.code import Stamp, code_state
from prefect_campaign.ledger import host_checks
from prefect_campaign.ledger.campaigns import CampaignRow
from prefect_campaign.ledger.events import add_event
from prefect_campaign.ledger.host_checks import EVENT, FAILED, READY, CheckRow
from prefect_campaign.ledger.location import Home
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import Fenced, Refused
from prefect_campaign.model.ids import digest
from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.template import words_of

STALE_SECONDS = 1.0
"""Nothing is placed by a comparison of the code that is older; where it takes long, by one that is ten times as old."""
SETTLE_SECONDS = 15.0
SWEEP, SWEEP_SECONDS = " sweep", 30.0
MOST_RESTARTS = 3
"""So often a check begins anew because the code has changed meanwhile; then it goes on with what it began with."""
RESTLESS_SECONDS = 5.0
"""So long such a check lets experiments start."""
AWAY_SECONDS = 20.0
"""How often a host that was away is looked at again."""

log = logging.getLogger("prefect_campaign")


class Environment:
    """The checks of one dispatcher's hosts.

    Args:
        hold: the campaign.
        home: where run dirs are.
        campaign: the spec.
        row: the round.
        launcher: runs the jobs of the checks.
        hosts: its machines; those that must not be used are shut, and it is told of news.
        batch: what waits.
        vram: knows how much GPU memory a dry run is to get.
    """

    def __init__(
        self,
        hold: Hold,
        home: Home,
        campaign: Campaign,
        row: CampaignRow,
        launcher: Launcher,
        hosts: Hosts,
        batch: Batch,
        vram: Vram,
    ) -> None:
        def memory(view: ExperimentView) -> int | None:
            return vram.estimate(view).vram_mb

        self._site = Site(hold, home, campaign, row, launcher, hosts, batch, rules_of(campaign), memory)
        self._code: str | None = None
        """State of the working folder; empty if it is not on this machine."""
        self._code_at = 0.0
        self._stale_after = STALE_SECONDS
        self._files: dict[Path, tuple[Stamp, str]] = {}
        self._found: dict[str, CheckRow] = {}
        self._restarts: Counter[str] = Counter()
        """Host -> checks in a row that were given up because the code changed."""
        self._until: dict[str, float] = {}
        """Host -> until when its last check counts, whatever the code is by now."""
        self._checks: dict[str, HostCheck] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._comparing: asyncio.Task[None] | None = None
        self._next_sweep = self._next_away = 0.0
        self._given_up = False

    @property
    def active(self) -> bool:
        """Whether anything is to be checked: not for plain local runs without a dry run."""
        return bool(self._site.batch.stage) and any(map(self._needs_check, self._site.hosts.seen))

    async def look(self, now: float) -> None:
        """Start what is to be done beside everything else, and close hosts that must not be used now.

        The first time the code is compared at once, so that hosts that were checked before can be used at once.
        """
        if not self._site.batch.waiting:
            return
        if self.active:
            if self._code is None:
                await self._compare()
                self._take_over()
            elif self._comparing is None and now - self._code_at > self._stale_after / 2:
                self._comparing = asyncio.create_task(self._compare_beside())
            for view in self._site.hosts.seen:
                self._look_at(view, now)
        # Also where nothing is to be checked any more: a machine whose engine went runs jobs without it.
        self._shut(self._site.hold.now())
        # Last: jobs that the checks above go on with are no leftovers.
        if now >= self._next_sweep and SWEEP not in self._tasks:
            self._next_sweep = now + SWEEP_SECONDS
            self._tasks[SWEEP] = asyncio.create_task(self._sweep())

    async def settle(self, seconds: float = SETTLE_SECONDS) -> None:
        """Give checks under way so long to come to an end."""
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=seconds)
            self._shut(self._site.hold.now())

    async def cancel_all(self) -> None:
        """End the jobs of the campaign's own checks."""
        self._given_up = True
        await self.settle()
        await self._sweep()

    async def close(self) -> None:
        """Stop checking. Jobs of checks go on, and whoever drives the campaign next takes them over.

        Not if nothing waits any more: then they are ended.
        """
        if not self._site.batch.waiting:
            await self.settle()
        await stop(*self._tasks.values(), self._comparing)

    # -- what is known ------------------------------------------------------------------------------------------

    def _needs_check(self, view: HostView) -> bool:
        # What a queue gives its jobs is known when one runs; a look at it beforehand would wait as long as they do.
        if view.queue:
            return False
        return view.launcher != LOCAL or self._site.campaign.policy.dry_run is not None

    def _take_over(self) -> None:
        """Checks that this or another process has made."""
        pairs = {(view.host, self._key(view)) for view in self._site.hosts.seen if self._needs_check(view)}
        with self._site.hold.ledger.read() as connection:
            rows = host_checks.known(connection, pairs, self._code or "")
        for row in rows.values():
            if row.state == READY and self._code:
                self._settled(row)

    def _look_at(self, view: HostView, now: float) -> None:
        host, found = view.host, self._valid(view.host)
        if not self._needs_check(view) or host in self._checks:
            return
        if view.problem and now >= self._next_away:
            self._next_away = now + AWAY_SECONDS
            self._site.hosts.refresh()
        if found is not None and _was_away(found) and not view.problem:
            del self._found[host]
            found = None
        if found is None:
            code = self._code or ""
            self._checks[host] = check = HostCheck(
                self._site, host, code, self._key(view), lambda: self._needless(host, code)
            )
            self._tasks[host] = asyncio.create_task(self._check(host, check))

    def _needless(self, host: str, code: str) -> bool:
        changed = code != (self._code or "") and self._restarts[host] < MOST_RESTARTS
        return self._given_up or changed or not self._site.batch.waiting

    def _valid(self, host: str) -> CheckRow | None:
        """What its last check came to, if that was of this code."""
        found = self._found.get(host)
        known = found is not None and found.code_hash == (self._code or "")
        return found if known or self._site.hold.now() < self._until.get(host, 0.0) else None

    def _shut(self, now: float) -> None:
        shut, failed = {}, {}
        for view in self._site.hosts.seen:
            found = self._valid(view.host)
            if not self._needs_check(view):
                continue
            if found is not None and found.state == FAILED:
                failed[view.host] = shut[view.host] = f"failed its check: {reason_of(found)}"
            elif found is None:
                check = self._checks.get(view.host)
                shut[view.host] = check.doing if check else "is checked before its first use"
            elif now - self._code_at > self._stale_after:
                shut[view.host] = "its code is compared with what was checked"
        hopeless = ""
        if failed and len(failed) == len(self._site.hosts.seen):
            told = "; ".join(f"{host}: {why}" for host, why in failed.items())
            hopeless = f"no host can run it: {told}; mend that, then " + (
                f"`campaign resume {self._site.row.name} --retry-failed` checks again"
            )
        self._site.hosts.shut(shut, failed, hopeless)

    def _key(self, view: HostView) -> str:
        """Digest of what is checked besides the code."""
        campaign, launcher = self._site.campaign, self._site.launcher
        member = launcher.members.get(view.host) if isinstance(launcher, Fleet) else launcher
        policy, settings = campaign.policy, repr(getattr(member, "host", ""))
        what = [words_of(campaign.command), campaign.env, campaign.workdir, policy.dry_run, campaign.resources.gpus]
        return digest([*what, settings], 16)

    def _settled(self, row: CheckRow) -> None:
        """What came of a check, kept for the report unless it is there already."""
        self._found[row.host] = row
        view = next((v for v in self._site.hosts.seen if v.host == row.host), HostView(row.host, 0))
        data = {
            "host": row.host,
            "launcher": view.launcher,
            "gpus": [gpu.name for gpu in view.gpus],
            "slots": view.slots,
            "state": row.state,
            "steps": row.reasons,
            "code": row.code_hash,
            "checked_at": row.checked_at,
        }
        hold = self._site.hold
        with hold.write() as connection:
            if host_checks.told(connection, hold.campaign_id, row.host) != data:
                why = reason_of(row) if row.state == FAILED else ""
                add_event(
                    connection, hold.campaign_id, hold.now(), "environment", EVENT, new=row.state, why=why, data=data
                )

    # -- beside the dispatcher ----------------------------------------------------------------------------------

    async def _check(self, host: str, check: HostCheck) -> None:
        try:
            row = await check.run()
            same = row.code_hash == (self._code or "")
            if same or self._restarts[host] >= MOST_RESTARTS:
                if not same:
                    self._until[host] = self._site.hold.now() + RESTLESS_SECONDS
                    workdir = self._site.campaign.workdir
                    log.warning("files in %s change all the time; let experiments write to {run_dir}", workdir)
                self._restarts[host] = 0
                self._settled(row)
                (log.info if row.state == READY else log.warning)("host %s: %s", host, reason_of(row) or "ready")
        except Needless:
            self._restarts[host] += check.code_hash != (self._code or "")
        except Fenced:
            pass
        except Exception:
            log.exception("host %s: its check failed by itself; it is tried again", host)
            await asyncio.sleep(AWAY_SECONDS)
        finally:
            self._checks.pop(host, None)
            self._tasks.pop(host, None)
        self._site.hosts.on_news()

    async def _compare(self) -> None:
        at = self._site.hold.now()
        self._code = await asyncio.to_thread(self._code_now)
        self._code_at = at
        self._stale_after = max(STALE_SECONDS, 10 * (self._site.hold.now() - at))

    def _code_now(self) -> str:
        site, workdir = self._site, Path(self._site.campaign.workdir)
        try:
            run_dir = site.home.runs(site.row.name, site.row.round) / "_check" / "a1"
            return code_state(workdir, run_dir, self._files).digest if workdir.is_dir() else ""
        except Refused:  # too large to be compared: then it is checked anew by every process
            return ""

    async def _compare_beside(self) -> None:
        before, stale = self._code, self._site.hold.now() - self._code_at > self._stale_after
        try:
            await self._compare()
        except Exception:
            log.exception("the code of the campaign cannot be compared with what was checked")
        finally:
            self._comparing = None
        if self._code != before or stale:
            self._site.hosts.on_news()

    async def _sweep(self) -> None:
        site = self._site
        try:
            hosts = {view.host: view.launcher for view in site.hosts.seen if not view.problem}
            now, mine = site.hold.now(), site.hold.campaign_id
            with site.hold.ledger.read() as connection:
                rows = host_checks.leftovers(connection, hosts, mine, now=now, alive=identity_alive)
            looked_after = {(host, check.code_hash) for host, check in self._checks.items()}
            left = [row for row in rows if row.campaign_id != mine or (row.host, row.code_hash) not in looked_after]
            await sweep(site.launcher, site.hold, left)
        except Exception as error:  # whatever it is, the devices simply stay taken
            log.warning("leftovers of checks could not be looked at: %s", error)
        finally:
            self._tasks.pop(SWEEP, None)


def reason_of(row: CheckRow) -> str:
    """Which steps a host did not pass and why; empty if it is ready."""
    failed = [one for one in row.reasons if one["state"] == NOT_PASSED]
    return "; ".join(one["detail"] if one["step"] == REACH else f"{one['step']}: {one['detail']}" for one in failed)


def _was_away(row: CheckRow) -> bool:
    return row.state == FAILED and any(one["step"] == REACH for one in row.reasons)
