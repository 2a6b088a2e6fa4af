"""The plots, as SVG that a page can colour and as a PNG."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.image import imread

from deploy.scaling import plots
from deploy.scaling.chart import SERIES, Label, dress, figure, name
from deploy.scaling.document import Picture
from deploy.scaling.results import Run
from deploy.scaling.speedup import speedup
from deploy.scaling.step import FAIL, GENERATOR_BOUND
from deploy.scaling.usl import Point, fit
from tests.support.lab_results import a_demo, a_folder, a_ladder, a_run, a_step

LADDER = a_ladder("1x1/1G", 1000)
UNKNOWN = {"cpus": None, "cpu_percent": None, "memory": None, "memory_percent": None, "nginx_cpus": None}


def drawn(*runs: Run) -> list[Picture]:
    return plots.plots(a_folder(Path(), *runs))


def test_demo_plots_save_only_the_main_file(tmp_path: Path) -> None:
    """Bars, requests, latency and CPU; only the main one is a file for Markdown."""
    found = plots.plots(a_demo(tmp_path))
    assert [picture.title for picture in found] == [
        "Users held at most", "Requests per second against users", "95 % of the requests took no longer than",
        "CPU against users",
    ]  # fmt: skip
    assert [picture.file for picture in found] == ["", "plot.png", "", ""]
    assert not list(tmp_path.iterdir())


def test_svg_is_part_of_a_page(tmp_path: Path) -> None:
    """It is well-formed, its colours are the page's variables, it loads nothing, and no id has two meanings."""
    ids: dict[str, str] = {}
    for picture in plots.plots(a_demo(tmp_path)):
        root = ElementTree.fromstring(picture.svg)  # noqa: S314 (our own)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(--ink)" in picture.svg
        assert not [shade for shade in SERIES if shade in picture.svg]
        assert not re.search(r"(href|src)=\"(?!#)", picture.svg)
        assert "<metadata" not in picture.svg
        for element in root.iter():
            if element.tag.endswith(("clipPath", "path")) and (named := element.get("id")):
                meaning = ElementTree.tostring(element).decode().strip()
                assert ids.setdefault(named, meaning) == meaning


def test_same_results_same_plots(tmp_path: Path) -> None:
    """Drawn twice, nothing differs."""
    assert plots.plots(a_demo(tmp_path)) == plots.plots(a_demo(tmp_path))


@pytest.mark.parametrize(
    "runs",
    [
        [a_ladder("1x1", 0)],
        [a_ladder("1x1", 0, GENERATOR_BOUND), a_ladder("2x1", 0, GENERATOR_BOUND)],
        [a_ladder("1x1", 1000, **UNKNOWN)],  # type: ignore[arg-type]
        [a_run("1x1", a_step(500, rps=0.0, requests=0, locust_p95=0.0, nginx_p95=0.0, cpu_percent=0.0), a_step(1000))],
        [a_run("1x1", *(replace(a_step(users, rps=0.0, locust_p95=0.0), verdict=FAIL) for users in (1, 2)))],
        [a_run("1x1", a_step(500), a_step(1000), done=False), a_run("2x1", done=False)],
        [a_ladder(f"{n}x1", 500 * n) for n in range(1, 20)],
    ],
)
def test_sparse_results_can_be_plotted(runs: list[Run], tmp_path: Path) -> None:
    """No result is too poor to be drawn, and CPU that nobody read is left out."""
    results = a_folder(tmp_path, *runs)
    has_cpu = any(step.cpu_percent is not None for step in results.steps)
    assert [picture.title for picture in plots.plots(results)][3:] == ["CPU against users"] * has_cpu
    assert plots.save_main(results)


def test_one_number_of_users(tmp_path: Path) -> None:
    """Where all steps had as many users, there are bars and no lines."""
    results = a_folder(tmp_path, a_run("1x1", a_step(500)), a_run("2x1", a_step(500)))
    assert [(picture.title, picture.file) for picture in plots.plots(results)] == [("Users held at most", "plot.png")]
    assert plots.save_main(results) == tmp_path / "plot.png"


def test_results_without_steps_have_no_plots(tmp_path: Path) -> None:
    """Where there is no step there is no plot."""
    assert drawn() == drawn(a_run("1x1")) == []
    assert plots.save_main(a_folder(tmp_path)) is None


def test_saved_png_contains_lines(tmp_path: Path) -> None:
    """The picture for pages that show no SVG has lines in it."""
    path = plots.save_main(a_demo(tmp_path))
    assert path == tmp_path / "plot.png"
    pixels = imread(path)
    assert pixels.shape[0] > 800
    assert pixels.shape[1] > 1000
    assert pixels.std() > 0.05


def test_generator_bound_marks_are_hollow() -> None:
    """Only where there is a generator-bound step are there marks filled with paper."""
    hollow = re.compile(r"fill: var\(--paper\); stroke: var\(--series")
    assert not hollow.search(drawn(LADDER)[1].svg)
    assert hollow.search(drawn(a_ladder("1x1", 1000, GENERATOR_BOUND))[1].svg)


def test_labels_do_not_overlap() -> None:
    """Names of lines that end at one point are written apart, and none over another's mark."""
    _, (axes,) = figure()
    dress(axes, "users", "RPS")
    axes.set(xlim=(0, 100), ylim=(0, 100))
    marks = [(60.0, 50.0)]
    name(axes, [Label(50, 50, f"{n}x1/1G:1", SERIES[n]) for n in range(5)], marks)
    window = axes.get_window_extent()
    heights = sorted(text.xyann[1] * window.height for text in axes.texts)  # type: ignore[attr-defined]
    assert min(b - a for a, b in pairwise(heights)) > 12
    assert all(abs(height - window.height / 2) > 10 for height in heights)


def test_speedup_requires_two_cpu_counts() -> None:
    """It takes two numbers of CPUs, and shows a fit where there is one."""
    some = [Point(n, 1000 * n / (1 + 0.1 * (n - 1)), "") for n in (1, 2, 4, 4, 8, 8)]
    assert speedup([], None) is None
    assert speedup(some[2:4], None) is None
    assert speedup([Point(1, 0, ""), Point(2, 0, "")], None) is None
    plain, fitted = speedup(some, None), speedup(some, fit(some))
    assert plain is not None
    assert fitted is not None
    assert "var(--series-1)" in fitted.svg
    assert "var(--series-1)" not in plain.svg
