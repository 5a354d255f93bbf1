"""The verbs of `campaign`. Heavy imports wait for the verb that needs them: `status` must answer at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from prefect_campaign.model.errors import CampaignError

app = typer.Typer(
    help="GPU experiment campaigns: pilot, gate, full phase, results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(help="Name of the campaign.")]
SpecPath = Annotated[str, typer.Argument(help="Campaign spec (YAML).", metavar="SPEC")]
Answer = Annotated[str, typer.Option("--approve", help="Answer the gate unattended: CONTINUE, PIVOT or KILL.")]
By = Annotated[str, typer.Option("--by", help="Who decides.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the answer.")]


def main() -> None:
    """Entry point: errors made for people are one line and exit code 2."""
    try:
        app()
    except CampaignError as error:
        print(f"campaign: {error}", file=sys.stderr)
        sys.exit(2)


@app.command()
def check(spec: SpecPath) -> None:
    """Check a spec and show its plan; nothing is made."""
    from prefect_campaign.cli.show import show_plan

    show_plan(spec)


@app.command()
def run(
    spec: SpecPath,
    approve: Answer = "",
    by: By = "",
    reason: Reason = "",
    new_round: Annotated[bool, typer.Option("--new-round", help="Start over if the campaign has ended.")] = False,
    deployed: Annotated[
        bool, typer.Option("--deployed", help="Serve the deployments and trigger campaign/pilot.")
    ] = False,
) -> None:
    """Run a campaign from wherever it is; waits at the gate for an answer (UI, this terminal, `approve`)."""
    from prefect_campaign.cli.run import run_spec

    sys.exit(run_spec(spec, approve=approve, by=by, reason=reason, new_round=new_round, deployed=deployed))


@app.command()
def resume(
    name: Name,
    approve: Answer = "",
    by: By = "",
    reason: Reason = "",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run failed experiments again, as new attempts of the same ids.")
    ] = False,
) -> None:
    """Go on with a campaign after a crash or a stop: adopts what still runs, starts nothing twice."""
    from prefect_campaign.cli.run import resume_campaign

    sys.exit(resume_campaign(name, approve=approve, by=by, reason=reason, retry_failed=retry_failed))


@app.command()
def status(
    name: Annotated[str, typer.Argument(help="Name of the campaign; without one, all are listed.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs; the keys are fixed.")] = False,
) -> None:
    """Show where a campaign is."""
    from prefect_campaign.cli.show import show_status

    show_status(name, as_json=as_json)


@app.command()
def gpus(
    name: Annotated[str, typer.Argument(help="Campaign whose machines are shown; without one, this machine.")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Again every 2 s, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    forget: Annotated[str, typer.Option("--forget", help="UUID of one that was taken out of its host for good.")] = "",
) -> None:
    """Show the GPUs: how much is free, who uses them, who has them leased."""
    if forget:
        from prefect_campaign.cli.gpu_numbers import forget_gpu

        forget_gpu(forget)
        return
    from prefect_campaign.cli.gpus import show_gpus

    show_gpus(name, watch=watch, as_json=as_json)


@app.command()
def doctor(
    spec: Annotated[str, typer.Argument(help="Campaign spec whose machines and needs are looked at, too.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs; the keys are fixed.")] = False,
    limit: Annotated[float, typer.Option("--limit", min=0.1, help="Seconds after which a look is called slow.")] = 15.0,
) -> None:
    """Look at all that campaigns depend on, and say what to do about it; starts and changes nothing."""
    from prefect_campaign.cli.doctor import show_doctor

    sys.exit(show_doctor(spec, as_json=as_json, limit=limit))


@app.command()
def approve(
    name: Name,
    answer: Annotated[str, typer.Argument(help="CONTINUE, PIVOT or KILL.")],
    by: By = "",
    reason: Reason = "",
    drop: Annotated[list[str] | None, typer.Option(help="exp_id to leave out of the full phase.")] = None,
    change: Annotated[list[str] | None, typer.Option(help="For PIVOT: name=value.")] = None,
    budget_hours: Annotated[float | None, typer.Option(help="Device hours that may be used in all.")] = None,
) -> None:
    """Answer the gate; the answer binds to the plan that was shown."""
    from prefect_campaign.cli.approve import answer_gate

    told = answer_gate(
        name, answer.upper(), by=by, reason=reason, drop=drop or (), changes=change or (), budget_hours=budget_hours
    )
    print(told)


@app.command()
def alerts(
    name: Annotated[str, typer.Argument(help="Name of the campaign; without one, of all.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs; the keys are fixed.")] = False,
) -> None:
    """Show the alerts: those that wait for an answer first."""
    from prefect_campaign.cli.alerts import show_alerts

    show_alerts(name, as_json=as_json)


@app.command()
def answer(
    alert: Annotated[str, typer.Argument(help="Number of the alert.", metavar="ID")],
    choice: Annotated[list[str] | None, typer.Argument(help="Its words, their beginning, or its number.")] = None,
    by: By = "",
    reason: Reason = "",
) -> None:
    """Answer an alert; without a choice, say which there are."""
    from prefect_campaign.cli.alerts import give_answer

    give_answer(alert, choice or [], by=by, reason=reason)


@app.command()
def export(
    name: Name, out: Annotated[Path, typer.Option("--out", help="Folder; made if needed.")] = Path("results")
) -> None:
    """Write the results files of a campaign into a folder."""
    from prefect_campaign.cli.show import export_results

    export_results(name, out)


@app.command()
def up(
    monitor_every: Annotated[int, typer.Option(help="Seconds between ticks of the scheduled monitor.")] = 300,
) -> None:
    """Start a Prefect server if none is configured, and serve the deployments until Ctrl-C."""
    from prefect_campaign.cli.serve import up as serve_up

    serve_up(monitor_every)


@app.command()
def down() -> None:
    """Stop the Prefect server that `up` or `run` started; experiments run on."""
    from prefect_campaign.cli.server import stop_server

    print(stop_server())


if __name__ == "__main__":
    main()
