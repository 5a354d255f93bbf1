"""What follows the end of each experiment, beside the running batch: analysis, charts, tracking."""

import asyncio
import logging
from pathlib import Path
from types import TracebackType
from typing import Any

from prefect_campaign.results.tracking import log_run

from prefect_campaign.engine.dispatcher import AttemptEnd
from prefect_campaign.ledger.observations import note_experiment
from prefect_campaign.model.records import AttemptSpec, ExperimentView, MetricRow
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.tasks.analyse import analyse_ended, judge_run
from prefect_campaign.tasks.setting import Setting
from prefect_campaign.watch.metrics import read_metrics

ANALYSIS_SECONDS = 30.0
"""A running experiment is judged at most this often."""

log = logging.getLogger("prefect_campaign")


class Finisher:
    """Works off what has ended, one after the other, without ever holding up the dispatcher.

    What a crash leaves undone is found again when the stage is next watched: each analysis is recorded with the
    attempt that it is about, each tracked run with its address.
    """

    def __init__(self, setting: Setting, stage: str) -> None:
        self.setting = setting
        self.stage = stage
        self._queue: asyncio.Queue[tuple[str, bool] | None] = asyncio.Queue()
        self._judged_at: dict[str, float] = {}
        self._worker: asyncio.Task[None] | None = None

    def ended(self, end: AttemptEnd) -> None:
        """An attempt is over; finish its experiment if that is final."""
        if end.state in (ExperimentState.DONE, ExperimentState.FAILED):
            self._queue.put_nowait((end.exp_id, True))

    def news(self, spec: AttemptSpec) -> None:
        """A live attempt reported something; judge it, but not too often."""
        now = self.setting.ledger.clock()
        if now - self._judged_at.get(spec.token, 0.0) >= ANALYSIS_SECONDS:
            self._judged_at[spec.token] = now
            self._queue.put_nowait((spec.exp_id, False))

    async def __aenter__(self) -> "Finisher":
        for view in self.setting.views(self.stage):
            if view.state in ("done", "failed"):
                self._queue.put_nowait((view.exp_id, True))
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        assert self._worker is not None  # noqa: S101 - set on entry
        if kind is not None:
            self._worker.cancel()
            return
        self._queue.put_nowait(None)
        await self._worker

    async def _work(self) -> None:
        while (item := await self._queue.get()) is not None:
            exp_id, over = item
            try:
                if over:
                    await self._finish(exp_id)
                else:
                    await asyncio.to_thread(judge_run, self.setting, exp_id, charts=False)
            except Exception as error:  # a chart or a tracker must never end the watching
                log.warning("%s: analysis or tracking failed: %s", exp_id, error)

    async def _finish(self, exp_id: str) -> None:
        view = next(v for v in self.setting.views(self.stage) if v.exp_id == exp_id)
        if self._needs_analysis(view):
            await analyse_ended(self.setting.campaign.name, exp_id, self.setting)
        if self._needs_tracking(view):
            await asyncio.to_thread(self._track, view)

    @staticmethod
    def _needs_analysis(view: ExperimentView) -> bool:
        return bool(view.metrics) and view.monitoring.get("attempt") != view.attempt

    def _needs_tracking(self, view: ExperimentView) -> bool:
        wanted = self.setting.campaign.tracking.wandb != "off"
        return wanted and view.run_dir is not None and view.tracking_url is None

    def _track(self, view: ExperimentView) -> None:
        rows: list[MetricRow] = []
        cursor: dict[str, Any] = {}
        while True:
            fresh, cursor = read_metrics(Path(view.run_dir or ""), cursor)
            if not fresh:
                break
            rows += fresh
        folder = self.setting.home.runs(self.setting.row.name, self.setting.row.round).parent / "wandb"
        tracked = log_run(view, self.setting.campaign, rows, folder)
        place = tracked.url or (f"offline:{tracked.path}" if tracked.path else None)
        if tracked.problem:
            log.warning("%s: W&B: %s", view.exp_id, tracked.problem)
        if place:
            with self.setting.ledger.write() as connection:
                note_experiment(connection, self.setting.row.id, view.exp_id, tracking_url=place)
