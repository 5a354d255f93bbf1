"""The sweep: which points of the parameter space are tried, with which seeds."""

import itertools
import math
import random
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


def _scalar(value: Any) -> Any:
    """Checked before the union: it would name every one of its members that the value is not."""
    value = value.item() if hasattr(value, "item") else value  # NumPy's numbers
    if value is None:
        raise ValueError("is empty")
    if not isinstance(value, str | int | float | bool):
        raise ValueError(f"must be text, a number or true/false, not {type(value).__name__}")
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("must be a number, not nan")
    return value


Scalar = Annotated[
    str | int | Annotated[float, Field(allow_inf_nan=True)] | bool,  # inf is a value: a clip norm, a temperature
    BeforeValidator(_scalar),
]
Role = Literal["method", "dataset", "seed"]


class Range(BaseModel):
    """A continuous or integer interval to draw from, for random and Optuna sweeps."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: float
    high: float
    log: bool = Field(default=False, description="Draw uniformly in the logarithm.")
    integer: bool = Field(default=False, description="Draw whole numbers, both ends included.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs low > 0, not {self.low:g}")
        return self


Axis = Annotated[list[Scalar], Field(min_length=1)]
Space = dict[str, Range | Axis]


class RandomSearch(BaseModel):
    """`n` points drawn independently from `space`; the same `seed` draws the same points."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(ge=1)
    space: Space = Field(min_length=1)
    seed: int = 0


class OptunaSearch(BaseModel):
    """`n` trials asked from an Optuna sampler, each told its result before later ones are asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(ge=1)
    space: Space = Field(min_length=1)
    sampler: str = Field(default="TPESampler", description="Class name in optuna.samplers.")
    sampler_args: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0


class Sweep(BaseModel):
    """Points to try. Exactly one of `grid`, `zip`, `points`, `random`, `optuna`.

    Axes named ``method``, ``dataset`` and ``seed`` carry these roles by themselves; `roles` gives them to
    axes of other names. Every point is run once per seed. What Optuna searches carries no role: its values are
    not known when the experiments are named.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    # The keys of the YAML form are the aliases; in Python the same words are the builders below.
    grid_axes: dict[str, Axis] | None = Field(
        default=None, alias="grid", description="Every combination of the axes' values."
    )
    zip_axes: dict[str, Axis] | None = Field(
        default=None, alias="zip", description="The axes' values side by side, equally long."
    )
    point_list: list[dict[str, Scalar]] | None = Field(
        default=None, alias="points", description="Each point written out."
    )
    random_search: RandomSearch | None = Field(default=None, alias="random")
    optuna_search: OptunaSearch | None = Field(default=None, alias="optuna")
    seeds: list[int] | None = Field(default=None, min_length=1, description="Seeds for each point; default [0].")
    roles: dict[str, Role] = Field(default_factory=dict, description="Axis name -> role.")

    @classmethod
    def grid(cls, *, roles: dict[str, Role] | None = None, **axes: Any) -> Self:
        """Every combination, e.g. ``Sweep.grid(method=["ours", "tent"], seed=range(3))``."""
        return cls(grid=axes, roles=roles or {})

    @classmethod
    def zip(cls, *, seeds: Iterable[int] | None = None, roles: dict[str, Role] | None = None, **axes: Any) -> Self:
        """The axes' values side by side; all axes must be equally long."""
        return cls(zip=axes, seeds=_axis(seeds), roles=roles or {})

    @classmethod
    def points(
        cls,
        points: Iterable[dict[str, Scalar]],
        *,
        seeds: Iterable[int] | None = None,
        roles: dict[str, Role] | None = None,
    ) -> Self:
        """An explicit list of points; all must name the same parameters."""
        return cls(points=list(points), seeds=_axis(seeds), roles=roles or {})

    @classmethod
    def random(cls, n: int, *, seeds: Iterable[int] | None = None, draw_seed: int = 0, **space: Any) -> Self:
        """`n` random points from `space` (choices or `Range`); the same for the same `draw_seed`."""
        return cls(random=RandomSearch(n=n, space=space, seed=draw_seed), seeds=_axis(seeds))

    @classmethod
    def optuna(
        cls,
        n: int,
        *,
        sampler: str = "TPESampler",
        seeds: Iterable[int] | None = None,
        draw_seed: int = 0,
        **space: Any,
    ) -> Self:
        """`n` trials asked from the Optuna sampler of that class name."""
        search = OptunaSearch(n=n, space=space, sampler=sampler, seed=draw_seed)
        return cls(optuna=search, seeds=_axis(seeds))

    @field_validator("grid_axes", "zip_axes", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: _axis(v) for k, v in value.items()}

    @field_validator("seeds", mode="before")
    @classmethod
    def _seed_list(cls, value: Any) -> Any:
        return _axis(value) if value is not None else None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = {
            "grid": self.grid_axes,
            "zip": self.zip_axes,
            "points": self.point_list,
            "random": self.random_search,
            "optuna": self.optuna_search,
        }
        kinds = [k for k, v in given.items() if v is not None]
        if len(kinds) != 1:
            found = ", ".join(kinds) or "none"
            raise ValueError(f"exactly one of grid, zip, points, random, optuna is needed; found {found}")
        if not given[kinds[0]]:
            raise ValueError(f"{kinds[0]} is empty: nothing to run")
        if self.zip_axes is not None and len({len(v) for v in self.zip_axes.values()}) > 1:
            lengths = ", ".join(f"{k} has {len(v)}" for k, v in self.zip_axes.items())
            raise ValueError(f"zip axes must be equally long: {lengths}")
        if self.point_list is not None and len({frozenset(p) for p in self.point_list}) > 1:
            raise ValueError("all points must name the same parameters")
        seed_axis = self.axis_of("seed")
        if seed_axis and self.seeds is not None:
            raise ValueError(f"seeds are given twice: as axis {seed_axis!r} and as seeds")
        for axis in self.roles:
            if axis not in self.axes:
                raise ValueError(f"roles names {axis!r}, which is not an axis; axes are {', '.join(self.axes)}")
        self._check_roles()
        return self

    @property
    def axes(self) -> list[str]:
        """Names of all axes, in the order given."""
        if self.point_list is not None:
            return list(self.point_list[0])
        search = self.random_search or self.optuna_search
        if search is not None:
            return list(search.space)
        return list(self.grid_axes or self.zip_axes or {})

    def axis_of(self, role: Role) -> str | None:
        """The axis that carries `role`: by `roles`, else the axis of that very name."""
        if self.optuna_search is not None:
            return None
        for axis, given in self.roles.items():
            if given == role:
                return axis
        return role if role in self.axes and role not in self.roles else None

    def size(self) -> int:
        """Number of experiments, seeds included, without building them."""
        if self.grid_axes is not None:
            count = 1
            for values in self.grid_axes.values():
                count *= len(values)
        elif self.zip_axes is not None:
            count = len(next(iter(self.zip_axes.values())))
        elif self.point_list is not None:
            count = len(self.point_list)
        elif self.random_search is not None:
            count = self.random_search.n
        else:
            assert self.optuna_search is not None  # noqa: S101 - _one_kind saw to it
            count = self.optuna_search.n
        return count * len(self.seeds or [0])

    def expand(self) -> Iterator[tuple[dict[str, Scalar], int]]:
        """Yield (point without the seed axis, seed) in a stable order.

        An Optuna sweep yields ``{"trial": i}``: its parameters are asked when the trial is launched.
        """
        seed_axis = self.axis_of("seed")
        for point in self._points():
            rest = {k: v for k, v in point.items() if k != seed_axis}
            seeds = [point[seed_axis]] if seed_axis else (self.seeds or [0])
            for seed in seeds:
                yield rest, int(seed)  # _check_roles saw to it that they are whole

    def _check_roles(self) -> None:
        if self.optuna_search is not None and self.roles:
            raise ValueError("roles: what Optuna searches carries no role")
        given = list(self.roles.values())
        twice = [role for role in given if given.count(role) > 1]
        if twice:
            raise ValueError(f"roles gives {twice[0]!r} to two axes")
        if self.optuna_search is not None and "seed" in self.axes:
            raise ValueError("optuna cannot search 'seed'; give seeds")
        for seed in self.seeds or self._values_of(self.axis_of("seed")):
            if isinstance(seed, bool) or not isinstance(seed, int):
                raise ValueError(f"a seed must be a whole number, not {seed!r}")
            if not -(2**63) <= seed < 2**63:
                raise ValueError(f"a seed must fit in 64 bits: {seed!r} does not")

    def _values_of(self, axis: str | None) -> list[Scalar]:
        """All values that `axis` may take."""
        if axis is None:
            return []
        if self.point_list is not None:
            return [point[axis] for point in self.point_list]
        if self.random_search is None:
            return (self.grid_axes or self.zip_axes or {})[axis]
        space = self.random_search.space[axis]
        if not isinstance(space, Range):
            return space
        if not space.integer:
            raise ValueError(f"{axis!r} carries the seed: its range needs integer: true")
        return [int(space.low), int(space.high)]

    def _points(self) -> Iterable[dict[str, Scalar]]:
        if self.grid_axes is not None:
            return (dict(zip(self.grid_axes, c, strict=True)) for c in itertools.product(*self.grid_axes.values()))
        if self.zip_axes is not None:
            return (dict(zip(self.zip_axes, c, strict=True)) for c in zip(*self.zip_axes.values(), strict=True))
        if self.point_list is not None:
            return list(self.point_list)
        if self.random_search is not None:
            rng = random.Random(self.random_search.seed)
            return [{k: draw(v, rng) for k, v in self.random_search.space.items()} for _ in range(self.random_search.n)]
        assert self.optuna_search is not None  # noqa: S101 - _one_kind saw to it
        return [{"trial": i} for i in range(self.optuna_search.n)]


def _axis(value: Any) -> Any:
    """Lists, tuples, ranges and single values all become a list."""
    if isinstance(value, str | int | float | bool):
        return [value]
    return list(value) if isinstance(value, Iterable) and not isinstance(value, dict) else value


def draw(axis: Range | list[Scalar], rng: random.Random) -> Scalar:
    """One value from a range or a list of choices.

    Floats are rounded to six significant digits, so that ids and command lines stay readable.
    """
    if isinstance(axis, list):
        return rng.choice(axis)
    if axis.integer:
        return rng.randint(int(axis.low), int(axis.high))
    if axis.log:
        return float(f"{axis.low * (axis.high / axis.low) ** rng.random():.6g}")
    return float(f"{rng.uniform(axis.low, axis.high):.6g}")
