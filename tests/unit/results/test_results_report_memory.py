"""The report's section on GPU memory."""

from prefect_campaign.decide.vram import Compared
from prefect_campaign.results.report import MOST_ROWS, write_report

ROWS = [
    Compared(
        "method ours", 4, 20000, 6000, "measured", 6000, "declared 3.3 times what was used: vram_mb 6000 would do"
    ),
    Compared("method tent", 1, None, None, "none", None, ""),
]


def test_every_shape_is_listed_with_what_it_took_and_a_hint(campaign, view, tmp_path):
    page = write_report([view()], campaign, tmp_path, memory=ROWS).read_text()
    markdown = (tmp_path / "report.md").read_text()
    assert "## GPU memory" in markdown
    assert (
        "| method ours | 4 | 20000 | 6000 | measured | 6000 | declared 3.3 times what was used: vram_mb 6000 would do |"
    ) in markdown
    assert "| method tent | 1 | auto | whole GPU | none | not seen | – |" in markdown
    for text in ("<h2>GPU memory</h2>", "3.3 times", "whole GPU", "not seen", '<td class="n">20000</td>'):
        assert text in page


def test_without_gpus_nothing_is_said_about_their_memory(campaign, view, tmp_path):
    page = write_report([view()], campaign, tmp_path).read_text()
    assert "GPU memory" not in page
    assert "GPU memory" not in (tmp_path / "report.md").read_text()


def test_names_of_parameters_are_foreign_text(campaign, view, tmp_path, hostile):
    page = write_report(
        [view()], campaign, tmp_path, memory=[Compared(hostile, 1, None, 1, hostile, 1, "")]
    ).read_text()
    assert "<script>alert" not in page
    markdown = (tmp_path / "report.md").read_text()
    (line,) = (line for line in markdown.splitlines() if "alert(1)" in line)
    assert line.replace("\\|", "").count("|") == 8


def test_a_long_list_is_cut_and_says_so(campaign, view, tmp_path):
    rows = [Compared(f"x {n}", 1, None, 1, "measured", 1, "") for n in range(MOST_ROWS + 3)]
    write_report([view()], campaign, tmp_path, memory=rows)
    section = (tmp_path / "report.md").read_text().split("## GPU memory")[1].split("##")[0]
    assert section.count("| measured |") == MOST_ROWS
    assert "3 more are not shown." in section
