"""What follows the end of each experiment, beside the running batch: analysis, charts, tracking."""

import asyncio
import logging

from prefect_campaign.engine.analyst import needs_analysis, needs_tracking
from prefect_campaign.engine.ends import AttemptEnd
from prefect_campaign.engine.setting import Setting
from prefect_campaign.engine.worker import Worker
from prefect_campaign.model.records import AttemptSpec
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.tasks.analyse import analyse

ANALYSIS_SECONDS = 30.0
"""A running experiment is judged at most this often."""

OVER = (ExperimentState.DONE, ExperimentState.FAILED)
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
        self._work: asyncio.Task[None] | None = None
        self._worker = Worker("prefect_campaign.engine.analyst", setting.campaign.name)

    def ended(self, end: AttemptEnd) -> None:
        """An attempt is over; finish its experiment if that is final."""
        # Thousands of short runs may end with a single value each: these must not cost a look into the ledger.
        if end.state in OVER and (end.has_course or self.setting.campaign.tracking.wandb != "off"):
            self._queue.put_nowait((end.exp_id, True))

    def news(self, spec: AttemptSpec) -> None:
        """A live attempt reported something; judge it, but not too often."""
        now = self.setting.ledger.clock()
        if now - self._judged_at.get(spec.token, 0.0) >= ANALYSIS_SECONDS:
            self._judged_at[spec.token] = now
            self._queue.put_nowait((spec.exp_id, False))

    async def __aenter__(self) -> "Finisher":
        for view in self.setting.views(self.stage):
            if view.state in OVER and (needs_analysis(view) or needs_tracking(self.setting, view)):
                self._queue.put_nowait((view.exp_id, True))
        self._work = asyncio.create_task(self._work_off())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._work is None:
            return
        if kind is not None:
            self._work.cancel()
        else:
            self._queue.put_nowait(None)
            await self._work
        await self._worker.close()

    async def _work_off(self) -> None:
        while (item := await self._queue.get()) is not None:
            exp_id, over = item
            try:
                if not over:
                    await self._judge(exp_id)
                elif self._unfinished(exp_id):
                    await analyse(exp_id, self.setting, self._worker)
            except Exception as error:  # a chart or a tracker must never end the watching
                log.warning("%s: analysis or tracking failed: %s", exp_id, error)

    async def _judge(self, exp_id: str) -> None:
        view = self.setting.view(exp_id)
        if view.state == ExperimentState.RUNNING and view.points > 1:
            await self._worker.ask({"exp_id": exp_id, "over": False})

    def _unfinished(self, exp_id: str) -> bool:
        view = self.setting.view(exp_id)
        return needs_analysis(view) or needs_tracking(self.setting, view)
