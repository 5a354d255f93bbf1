"""`campaign gpus`: the picture at any width and the document for programs."""

import io
import json
from dataclasses import replace

import pytest
from driver import uuid_of
from rich.console import Console
from unit.ledger.ledger_data import register_demo

from prefect_campaign.cli.gpus import by_rules, device_leases, document, render, short_uuid
from prefect_campaign.ledger import queries
from prefect_campaign.model.devices import Gpu, GpuProcess, HostView
from prefect_campaign.model.errors import LedgerDamaged
from prefect_campaign.model.spec import GpuPolicy

OURS = GpuProcess(7, 9000, user="ann", command="python train.py", run_dir="/home/ann/c/runs/svm_main_s0/a2")
GPUS = (
    Gpu(uuid_of(0), 0, "NVIDIA A100-SXM4-80GB", 81920, 9000, 97, 91, 0, processes=(OURS,)),
    Gpu(uuid_of(1), 1, "NVIDIA A100-SXM4-80GB", 81920, 0, 0, 30),
    Gpu(uuid_of(2), 2, "NVIDIA A100-SXM4-80GB", 81920, 5000, 0, 30),
    Gpu(uuid_of(3), 3, "NVIDIA A100-SXM4-80GB", 81920, problem="is lost (fell off the bus)"),
    Gpu(uuid_of(4), 4, "NVIDIA A100-SXM4-80GB", 81920, 0, 0, 30, mig=True, problem="MIG is on"),
    Gpu(uuid_of(5), 5, "NVIDIA A100-SXM4-80GB", 81920, 0, 0, 30, mig=True, problem="MIG is on"),
)
HOST = HostView("h1", 8, GPUS, driver="550.54.15", cuda="12.4", reserve=frozenset({"1"}), keep_free=1)
LEASES = {
    ("h1", uuid_of(0)): [{"campaign": "digits", "exp_id": "svm_main_s0", "token": "pc-1", "vram_mb": 10240}],
    ("h1", uuid_of(2)): [{"token": "pc-other-a1", "vram_mb": None}],
    ("h1", "GPU-99999999-9"): [{"token": "pc-lost-a1", "vram_mb": 1}],
    ("h1", "slot-0"): [{"token": "pc-cpu-a1", "vram_mb": None}],
    ("h2", uuid_of(1)): [{"token": "pc-elsewhere-a1", "vram_mb": None}],
}


def drawn(views, width, leases=None) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(render(views, leases or {}, width))
    return out.getvalue()


def test_foreign_words_do_nothing_to_the_terminal():
    evil = "\x1b]0;t\x07[bold]x[/red]\udcff"
    process = GpuProcess(7, 9000, user=evil, command=evil, run_dir=f"/c/{evil}/{evil}")
    shown = Gpu(uuid_of(0), 0, evil, 81920, 9000, processes=(process,))
    broken = Gpu(uuid_of(1), 1, evil, 81920, problem=evil)
    for width in (80, 140):
        picture = drawn([HostView("h1", 8, (shown, broken), driver=evil, cuda=evil, gpu_problem=evil)], width)
        assert all(c == "\n" or c.isprintable() for c in picture)
        assert "[bold]x[/red]" in picture


def row(picture: str, index: int) -> str:
    return next(line for line in picture.splitlines() if line.startswith(f"{index}  "))


@pytest.mark.parametrize("width", [80, 140])
def test_the_picture_has_all_that_counts_and_keeps_its_width(width):
    picture = drawn([HOST], width, LEASES)
    lines = picture.splitlines()
    assert all(len(line) <= width for line in lines)
    assert "h1  driver 550.54.15  CUDA 12.4  1 always kept free" in lines[0]
    assert all(word in row(picture, 0) for word in ("A100", "00000000", "71.2/80", "97%", "91"))
    assert "ann  8.8 GB  svm_main_s0/a2" in picture
    assert "digits/svm_main_s0" in picture
    assert "reserved for development" in row(picture, 1)
    assert "pc-other-a1  all" in row(picture, 2)
    assert "4.9 GB, not seen by whom" in picture
    assert "not usable" in row(picture, 3)
    assert "80/80" not in row(picture, 3)
    assert "GPU 3: is lost (fell off the bus)" in lines
    assert "GPUs 4, 5: MIG is on" in lines
    assert "leased but not seen: GPU-99999999-9 by pc-lost-a1" in picture
    assert "pc-cpu-a1" not in picture
    assert "pc-elsewhere" not in picture


def test_a_model_has_its_whole_name_where_there_is_room() -> None:
    cards = (replace(GPUS[1], name="NVIDIA GeForce RTX 4090"), GPUS[2])
    assert "GeForce RTX 4090" in drawn([HostView("h", 1, cards)], 80)
    assert "GeForce RTX…" in drawn([HostView("h", 1, cards)], 50)


def test_a_lease_whose_attempt_is_not_on_record_yet_names_campaign_and_experiment() -> None:
    leases = {("h1", uuid_of(2)): [{"campaign": "my-lab", "exp_id": None, "token": "pc-my-lab--e1-a1", "vram_mb": 1}]}
    assert "my-lab/e1-a1" in row(drawn([HOST], 120, leases), 2)


async def test_what_a_campaign_keeps_from_itself_is_shown_with_it() -> None:
    async def look() -> list[HostView]:
        return [HostView("h1", 8, GPUS[:3]), HostView("h2", 8, GPUS[:3])]

    rules = GpuPolicy(reserve=["h1:1", 2], keep_free=1)
    first, second = document(await by_rules(look, rules)(), {})["hosts"]
    assert [gpu["reserved"] for gpu in first["gpus"]] == [False, True, True]
    assert [gpu["reserved"] for gpu in second["gpus"]] == [False, False, True]
    assert (first["keep_free"], second["keep_free"]) == (1, 1)


@pytest.mark.parametrize("width", [1, 20, 40, 79, 115, 116, 300])
def test_any_width_can_be_drawn(width):
    assert drawn([HOST, replace(HOST, host="h2")], width, LEASES)


def test_names_from_outside_are_no_markup_and_break_no_table():
    strange = GpuProcess(1, 10, user="[red]x", command="[/] ☃ " + "y" * 300)
    gpu = replace(GPUS[1], name="[bold]\N{SNOWMAN}" * 9, processes=(strange,), problem="[/red]")
    picture = drawn([HostView("[b]h", 1, (gpu,))], 80)
    assert "[red]x" in picture
    assert "GPU 1: [/red]" in picture
    assert "[b]h" in picture


def test_a_crowd_on_one_gpu_is_counted():
    crowd = tuple(GpuProcess(n, n * 100, user="bob", command="sh") for n in range(1, 12))
    picture = drawn([HostView("h", 1, (replace(GPUS[1], processes=crowd),))], 100)
    assert picture.count("bob") == 3
    assert "and 8 more" in picture
    assert "(11)" in picture  # the largest is among those that are shown


def test_a_host_without_gpus_and_one_that_cannot_be_read():
    assert "no GPUs here" in drawn([HostView("h", 4)], 80)
    told = drawn([HostView("h", 4, problem="the driver is asleep")], 80)
    assert "the driver is asleep" in told
    assert "no GPUs here" not in told


def test_the_document_has_every_field_and_is_json():
    (host,) = json.loads(json.dumps(document([HOST], LEASES)))["hosts"]
    assert (host["host"], host["driver"], host["cuda"], host["problem"]) == ("h1", "550.54.15", "12.4", "")
    first, second, *_ = host["gpus"]
    assert first["free_mb"] == 81920 - 9000
    assert first["processes"][0]["run_dir"] == OURS.run_dir
    assert first["leases"][0]["exp_id"] == "svm_main_s0"
    assert (first["reserved"], second["reserved"]) == (False, True)


@pytest.mark.parametrize(
    ("uuid", "short"), [(uuid_of(10), "0000000a"), ("unreadable-3", "?"), ("GPU-x", "x"), ("GPU-", "")]
)
def test_short_uuid(uuid, short):
    assert short_uuid(uuid) == short


def test_leases_come_from_the_ledger_with_their_experiment(ledger):
    book = register_demo(ledger)
    book.open_stage()
    exp_id = next(iter(book.states()))
    spec = book.launch(exp_id, device=uuid_of(2))
    found = device_leases()
    ((lease,),) = found.values()
    assert set(found) == {("here", uuid_of(2))}
    assert (lease["campaign"], lease["exp_id"], lease["token"]) == ("demo", exp_id, spec.token)
    assert f"demo/{exp_id}" in drawn([replace(HOST, host="here")], 140, found)


def test_without_a_ledger_there_are_no_leases_and_a_damaged_one_hides_no_gpus(home, monkeypatch, capsys):
    monkeypatch.setattr(queries, "device_leases", lambda reader: [])
    assert device_leases() == {}
    assert capsys.readouterr().err == ""

    def damaged(reader):
        raise LedgerDamaged("ledger /x: cannot be read")

    (home.path / "ledger.db").touch()
    monkeypatch.setattr(queries, "device_leases", damaged)
    assert device_leases() == {}
    assert "leases are not shown: ledger /x: cannot be read" in capsys.readouterr().err
