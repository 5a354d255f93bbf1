"""Campaigns of which an attempt waits for a busy GPU, and what people read and answer about it."""

from typing import Any

from ledgers import prepare
from unit.ledger.ledger_data import attempt_of

from prefect_campaign import Campaign, Objective, Sweep
from prefect_campaign.engine.setting import Setting, register
from prefect_campaign.ledger import alerts
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.alerts import ANYWAY, ELSEWHERE, STOP
from prefect_campaign.ledger.experiments import Intent, open_stage, record_intents
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.states import ExperimentState

PILOT = "p1_main_lr1_s0"
MESSAGE = f"{PILOT} attempt 1 waits: h1: GPU 0 (RTX) is used by eve's \x1b[31mpython [bold] (pid 7)"


def launching(name: str = "demo") -> Setting:
    """A campaign with one attempt that has its GPU, but was not started yet."""
    prepare(Home.locate())
    setting = register(
        Campaign(
            name=name,
            command="true {lr}",
            sweep=Sweep.grid(lr=[1, 2]),
            objective=Objective(metric="acc"),
            workdir="/tmp",
        )
    )
    now = setting.ledger.clock()
    with setting.ledger.write() as connection:
        open_stage(connection, setting.row.id, "minimal", now=now)
        spec = attempt_of(PILOT, 1)
        spec = type(spec)(**{**vars(spec), "token": f"t-{name}", "host": "h1", "gpus": (f"GPU-{name}",)})
        record_intents(
            connection, setting.row.id, [Intent(spec, ExperimentState.READY, "local", "h1", (f"GPU-{name}",))], now=now
        )
    return setting


def ask(setting: Setting) -> int:
    """Put the question; returns its number."""
    with setting.ledger.write() as connection:
        alerts.raise_alert(
            connection,
            setting.row.id,
            PILOT,
            1,
            syndrome="gpu_busy",
            message=MESSAGE,
            choices=(ANYWAY, ELSEWHERE, STOP),
            now=setting.ledger.clock() - 720,
        )
    return int(rows(setting)[-1]["id"])


def settle(setting: Setting, effect: str) -> None:
    """Something was done about it."""
    with setting.ledger.write() as connection:
        alerts.settle(connection, setting.row.id, PILOT, 1, syndrome="gpu_busy", effect=effect)


def tell(setting: Setting, syndrome: str = "nan_inf_loss", attempt: int = 1) -> None:
    """An alert that asks nothing."""
    with setting.ledger.write() as connection:
        alerts.add_alert(
            connection,
            setting.row.id,
            "main_lr1_s0",
            attempt,
            severity="critical",
            syndrome=syndrome,
            message="loss was not finite",
            choices=[{"label": "It was stopped", "effect": "stop"}],
            effect="stop",
            created_at=setting.ledger.clock(),
        )


def rows(setting: Setting) -> list[dict[str, Any]]:
    """Every alert on record."""
    with Reader(setting.ledger.url) as reader:
        return reader.rows(f"SELECT * FROM {t.alerts.name} ORDER BY id")


def answer_on_record(setting: Setting) -> tuple[str | None, str | None]:
    """Answer and who gave it."""
    found = rows(setting)[0]
    return found["answer"], found["answered_by"]
