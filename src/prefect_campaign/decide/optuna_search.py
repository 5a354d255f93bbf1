"""The next point of an Optuna sweep, asked from a sampler that is rebuilt from finished trials."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from prefect_campaign.decide.compare import Mode, finite
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.sweep import Range, Scalar

if TYPE_CHECKING:
    import optuna

Trials = Sequence[tuple[Mapping[str, Scalar], float | None]]

# These write what they remember into each trial when it is asked, so every known trial is asked again.
_EVOLUTION = frozenset({"CmaEsSampler", "NSGAIISampler", "NSGAIIISampler"})
# For these the seed fixes one sequence or grid, in which every trial has its place; results play no part.
_SEQUENCES = frozenset({"GridSampler", "QMCSampler"})


def ask(
    space: Mapping[str, Range | list[Scalar]],
    sampler: str,
    seed: int,
    history: Trials,
    trial: int,
    mode: Mode = "max",
    sampler_args: Mapping[str, Any] | None = None,
) -> dict[str, Scalar]:
    """Ask for the parameters of one trial. The same arguments give the same answer.

    Nothing is kept between calls: the study lives in memory and is rebuilt from `history`.

    Args:
        space: parameter -> a range, or a list of choices.
        sampler: class name in `optuna.samplers`.
        seed: of the sweep; each trial draws from a stream of its own.
        history: (parameters, objective value) of the trials that ended. A missing or non-finite value is a
            failed trial, and parameters outside the space are ignored.
        trial: number of the trial, from 0; trials that are still running have numbers but no history.
        mode: direction of the objective.
        sampler_args: further arguments of the sampler.

    Returns:
        Parameter -> value, in the order of `space`; floats have at most six significant digits.

    Raises:
        Refused: no such sampler, arguments it does not take, a package it needs is missing, or a space it
            cannot search.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            distributions = {name: _distribution(axis) for name, axis in space.items()}
        except ValueError as error:
            raise Refused(f"sweep.optuna.space: {error}") from None
        built = _sampler(sampler, space, seed, trial, dict(sampler_args or {}))
        direction = "maximize" if mode == "max" else "minimize"
        study = optuna.create_study(sampler=built, direction=direction)
        try:
            _rebuild(study, sampler, distributions, history, trial)
            asked = study.ask(distributions).params
        except ImportError as error:
            raise _needs_package(sampler, error) from None
        except ValueError as error:
            raise Refused(f"sweep.optuna.sampler: {sampler} cannot search this space: {_line(error)}") from None
    return {name: _readable(asked[name], axis) for name, axis in space.items()}


def _rebuild(
    study: "optuna.Study",
    sampler: str,
    distributions: Mapping[str, Any],
    history: Trials,
    trial: int,
) -> None:
    """Give `study` what its sampler needs to know before it is asked for the next trial."""
    from optuna.trial import TrialState, create_trial

    if sampler == "GridSampler":
        for _ in range(trial):
            study.add_trial(create_trial(state=TrialState.FAIL))  # the grid goes by the trial's number
        return
    if sampler == "QMCSampler":
        for _ in range(trial):
            study.tell(study.ask(distributions), 0.0)  # the sequence goes by how many were asked
        return
    for params, value in history:
        if value is None or not finite(value):
            continue
        mine = {k: v for k, v in params.items() if k in distributions}
        try:
            known = create_trial(params=mine, distributions=distributions, value=float(value))
        except ValueError:
            continue  # out of this space: it teaches the sampler nothing
        if sampler in _EVOLUTION:
            study.enqueue_trial(known.params)
            asked = study.ask(distributions)
            _ = asked.relative_params  # drawn lazily; drawing is what writes the generation
            study.tell(asked, known.value)
        else:
            study.add_trial(known)


def _sampler(
    name: str,
    space: Mapping[str, Range | list[Scalar]],
    seed: int,
    trial: int,
    arguments: dict[str, Any],
) -> Any:
    import optuna

    known = [
        n
        for n in optuna.samplers.__all__
        if inspect.isclass(c := getattr(optuna.samplers, n)) and not inspect.isabstract(c)
    ]
    if name not in known:
        close = get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"
        raise Refused(f"sweep.optuna.sampler: {name!r} is not a sampler of Optuna; {hint}")
    kind: type[Any] = getattr(optuna.samplers, name)
    takes = inspect.signature(kind).parameters
    # One stream per trial: a rebuilt sampler would else draw the same numbers for every trial.
    own = (seed * 1_000_003 + trial) % 2**32
    if "seed" in takes:
        arguments["seed"] = seed % 2**32 if name in _SEQUENCES else own
    if name == "GridSampler":
        ranges = [k for k, axis in space.items() if isinstance(axis, Range)]
        if ranges:
            raise Refused(f"sweep.optuna.sampler: GridSampler needs a list of values for {ranges[0]!r}")
        arguments.setdefault("search_space", dict(space))
    if name == "QMCSampler":
        arguments.setdefault("independent_sampler", optuna.samplers.RandomSampler(seed=own))
    try:
        return kind(**arguments)
    except ImportError as error:
        raise _needs_package(name, error) from None
    except (TypeError, ValueError) as error:
        raise Refused(f"sweep.optuna.sampler_args: {name} does not take them: {_line(error)}") from None


def _distribution(axis: Range | list[Scalar]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, list):
        return CategoricalDistribution(axis)
    if axis.integer:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _readable(value: Any, axis: Range | list[Scalar]) -> Scalar:
    """Floats from a range in six significant digits, as in random sweeps, but never outside the range."""
    if isinstance(axis, list) or axis.integer:
        return value  # type: ignore[no-any-return]
    short = float(f"{value:.6g}")
    return short if axis.low <= short <= axis.high else float(value)


def _needs_package(sampler: str, error: ImportError) -> Refused:
    return Refused(f"sweep.optuna.sampler: {sampler} needs another package: {_line(error)}")


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
