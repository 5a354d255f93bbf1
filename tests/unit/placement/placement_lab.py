"""Hosts, leases and demands for the tests of placement, and a checker that knows nothing of its code."""

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from fractions import Fraction

from prefect_campaign.model.devices import Gpu, GpuProcess, HostView
from prefect_campaign.placement.demand import Assignment, Demand, Held, Placement, Rules


def gpu(host: str, index: int, total: int = 80_000, **more: object) -> Gpu:
    return Gpu(f"GPU-{host}-{index}", index, **{"name": "NVIDIA A100-SXM4-80GB", "total_mb": total, **more})  # type: ignore[arg-type]


def host(name: str, gpus: int = 2, slots: int = 4, total: int = 80_000, **more: object) -> HostView:
    return HostView(name, slots, tuple(gpu(name, i, total) for i in range(gpus)), **more)  # type: ignore[arg-type]


def foreign(pid: int = 7, used: int | None = 1000) -> GpuProcess:
    return GpuProcess(pid, used, user="bob", command="python")


def whole(exp_id: str, gpus: int = 1, **more: object) -> Demand:
    return Demand(exp_id, gpus=gpus, **more)  # type: ignore[arg-type]


def got(placement: Placement) -> dict[str, tuple[str, ...]]:
    return {a.exp_id: (a.host, *a.devices) for a in placement.assignments}


def lease(assignment: Assignment, demand: Demand, *, shared: bool, until: float | None = None) -> list[Held]:
    return [
        Held(assignment.host, device, assignment.exp_id, demand.vram_mb, shared=shared, until=until)
        for device in assignment.devices
    ]


def breaches(
    placement: Placement,
    demands: Sequence[Demand],
    hosts: Sequence[HostView],
    held: Sequence[Held],
    rules: Rules,
    now: float,
    extra: Mapping[tuple[str, str], int],
) -> list[str]:
    """Every rule that the placement breaks; all counted anew from what was given to it."""
    found: list[str] = []
    views = {h.host: h for h in hosts}
    wanted = {d.exp_id: d for d in demands}
    leases = list(held)
    if len({a.exp_id for a in placement.assignments}) < len(placement.assignments):
        found.append("an experiment was placed twice")
    if {a.exp_id for a in placement.assignments} & set(placement.reasons) or set(placement.reasons) | {
        a.exp_id for a in placement.assignments
    } != set(wanted):
        found.append("not everyone was either placed or given a reason")
    for a in placement.assignments:
        demand, view = wanted[a.exp_id], views[a.host]
        if demand.not_before > now or view.problem or a.host in rules.avoid:
            found.append(f"{a} too early, or on a host with a problem or avoided")
        by_width = not demand.gpus and (view.cores or demand.others) and not view.queue
        if len(set(a.devices)) != (min(demand.slots, view.slots) if by_width else max(demand.gpus, 1)):
            found.append(f"{a} has not just what it needs")
        if any((a.host, x) in demand.avoid for x in (*a.devices, "*")):
            found.append(f"{a} is where it must not be")
        for device in a.devices:
            mine = [h for h in leases if h.host == a.host and h.device == device]
            if not demand.gpus:
                if mine or device not in {f"slot-{i}" for i in range(view.slots)}:
                    found.append(f"{a}: no free slot")
                continue
            found += [f"{a}: {why}" for why in _on_gpu(demand, view, device, mine, rules, extra)]
        if demand.gpus and list(a.devices) != [g.uuid for g in view.gpus if g.uuid in a.devices]:
            found.append(f"{a}: not in the order of the index")
        leases += lease(a, demand, shared=rules.share)
    for view in hosts:
        usable = {g.uuid for g in view.gpus if not g.problem and not _closed(g, view, rules)}
        before = {h.device for h in held if h.host == view.host} & usable
        after = {h.device for h in leases if h.host == view.host} & usable
        if len(after) > max(len(before), len(usable) - max(rules.keep_free, view.keep_free)):
            found.append(f"{view.host}: fewer than keep_free are left")
    return found


def _on_gpu(
    demand: Demand,
    view: HostView,
    uuid: str,
    mine: Sequence[Held],
    rules: Rules,
    extra: Mapping[tuple[str, str], int],
) -> list[str]:
    gpu = next((g for g in view.gpus if g.uuid == uuid), None)
    if gpu is None:
        return ["no such GPU"]
    found = []
    if gpu.problem or _closed(gpu, view, rules):
        found.append("reserved, avoided or with a problem")
    if mine and (demand.vram_mb is None or not rules.share or any(h.vram_mb is None or not h.shared for h in mine)):
        found.append("somebody who shares it with nobody")
    free = gpu.total_mb - gpu.used_mb - extra.get((view.host, uuid), 0)
    free -= sum(max(0, (h.vram_mb or 0) - h.seen_mb) for h in mine)
    if demand.vram_mb is not None and free < Fraction(12, 10) * demand.vram_mb:
        found.append(f"{free} MiB are free for {demand.vram_mb}")
    if demand.vram_mb is None and any(p.run_dir is None and not p.graphics for p in gpu.processes):
        found.append("whole, beside somebody else's process")
    return found


def _closed(gpu: Gpu, view: HostView, rules: Rules) -> bool:
    names = {str(gpu.index), gpu.uuid, f"{view.host}:{gpu.index}"}
    if names & (rules.reserve | view.reserve):
        return True
    return any(
        entry in (view.host, f"{view.host}:{gpu.index}") or fnmatch(gpu.name.lower(), entry.lower())
        for entry in rules.avoid
    )


def load(placement: Placement) -> Counter[str]:
    """Host -> experiments."""
    return Counter(a.host for a in placement.assignments)
