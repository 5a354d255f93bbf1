import polars as pl
import pytest
from huggingface_hub import DatasetCard

from prefect_campaign.model.errors import Refused
from prefect_campaign.results import hub
from prefect_campaign.results.all_results import write_all_results
from prefect_campaign.results.hub import stage_dataset
from prefect_campaign.results.log import write_experiment_log
from prefect_campaign.results.statistics import write_significance


@pytest.fixture
def results(campaign, study, tmp_path):
    folder = tmp_path / "results"
    write_all_results(study, campaign, folder)
    write_significance(study, campaign, folder)
    write_experiment_log(study, campaign, folder / "experiment_log.csv")
    (folder / "experiment_log.csv.damaged-1").write_text("private")
    (folder / "report.html").write_text("page")
    return folder


def test_card_and_data_belong_together(campaign, study, results, tmp_path):
    target = stage_dataset(results, campaign, study, tmp_path / "hub")

    assert sorted(p.name for p in target.iterdir()) == ["README.md", "data"]
    assert (target / "data" / "all_results.parquet").read_bytes() == (results / "all_results.parquet").read_bytes()
    assert not (target / "data" / "experiment_log.csv.damaged-1").exists()
    card = DatasetCard.load(target / "README.md", ignore_metadata_errors=False)
    meta = card.data.to_dict()
    assert (meta["license"], meta["pretty_name"], meta["size_categories"]) == ("apache-2.0", "digits", ["n<1K"])
    assert meta["tags"] == ["prefect-campaign", "experiments"]
    # files without rows are there, but are no configuration: the viewer could not type their columns
    assert [c["config_name"] for c in meta["configs"]] == ["all_results", "significance_tests", "experiment_log"]
    assert meta["configs"][0] == {
        "config_name": "all_results",
        "data_files": "data/all_results.parquet",
        "default": True,
    }
    for config in meta["configs"]:
        assert (target / config["data_files"]).is_file()
    assert "18 experiments, 18 finished (18 of the full phase, 0 pilots)" in card.text
    assert "`ours_d1_main_s0` with 0.9230" in card.text
    assert "| d1 | ours | 0.9207 ± 0.0025 | 3 |" in card.text
    assert "c0ffee" in card.text
    assert "`exp_id`, `method`" in card.text


def test_no_network_is_touched(campaign, study, results, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert stage_dataset(results, campaign, study, tmp_path / "hub").is_dir()


def test_staging_again_replaces_everything(campaign, study, results, tmp_path):
    target = stage_dataset(results, campaign, study, tmp_path / "hub")
    (target / "data" / "stale.csv").write_text("old")
    (results / "significance_tests.csv").unlink()

    stage_dataset(results, campaign, study, target)

    assert not (target / "data" / "stale.csv").exists()
    assert not (target / "data" / "significance_tests.csv").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hub", "results"]


def test_a_folder_of_somebody_else_is_never_replaced(campaign, study, results, tmp_path):
    target = tmp_path / "hub"
    target.mkdir()
    (target / "README.md").write_text("---\ntags:\n- mine\n---\nmine")

    with pytest.raises(Refused, match="was not staged by this program"):
        stage_dataset(results, campaign, study, target)

    assert (target / "README.md").read_text().endswith("mine")
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(Refused):
        stage_dataset(results, campaign, study, file)


def test_failure_leaves_the_old_folder(campaign, study, results, tmp_path, monkeypatch):
    target = stage_dataset(results, campaign, study, tmp_path / "hub")
    before = (target / "README.md").read_text()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(hub, "card", broken)
    with pytest.raises(OSError, match="disk full"):
        stage_dataset(results, campaign, [], target)

    assert (target / "README.md").read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hub", "results"]


def test_empty_campaign_has_a_valid_card(campaign, tmp_path):
    write_all_results([], campaign, tmp_path / "results")
    target = stage_dataset(tmp_path / "results", campaign, [], tmp_path / "deep" / "hub")
    card = DatasetCard.load(target / "README.md", ignore_metadata_errors=False)
    assert [c["config_name"] for c in card.data.to_dict()["configs"]] == ["all_results"]
    assert "No finished, comparable experiment" in card.text
    assert pl.read_parquet(target / "data" / "all_results.parquet").height == 0


def test_hostile_text_keeps_the_front_matter_valid(make_campaign_with, study, tmp_path, hostile):
    publish = {"title": f"{hostile}\n---\nlicense: evil", "tags": ["a: b", "- c", hostile], "license": "cc-by-4.0"}
    campaign = make_campaign_with(publish=publish, question="x\n---\ny")
    (tmp_path / "results").mkdir()
    target = stage_dataset(tmp_path / "results", campaign, study, tmp_path / "hub")
    meta = DatasetCard.load(target / "README.md", ignore_metadata_errors=False).data.to_dict()
    assert meta["license"] == "cc-by-4.0"
    assert meta["tags"][2:4] == ["a: b", "- c"]
    assert "configs" not in meta or meta["configs"] == []
