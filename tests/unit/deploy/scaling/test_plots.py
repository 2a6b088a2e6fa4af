"""Tests of the plots as SVG for pages and as PNG."""

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
from tests.support.lab_results import make_demo_results, make_ladder, make_results, make_run, make_step

LADDER = make_ladder("1x1/1G", 1000)
UNKNOWN = {"cpus": None, "cpu_percent": None, "memory": None, "memory_percent": None, "nginx_cpus": None}


def drawn(*runs: Run) -> list[Picture]:
    return plots.plots(make_results(Path(), *runs))


def test_demo_plots_save_only_the_main_file(tmp_path: Path) -> None:
    """There are plots of users, requests, latency and CPU, and only the main one is also a file."""
    all_plots = plots.plots(make_demo_results(tmp_path))
    assert [picture.title for picture in all_plots] == [
        "Users held at most", "Requests per second against users", "95 % of the requests took no longer than",
        "CPU against users",
    ]  # fmt: skip
    assert [picture.file for picture in all_plots] == ["", "plot.png", "", ""]
    assert not list(tmp_path.iterdir())


def test_svg_can_be_embedded_in_a_page(tmp_path: Path) -> None:
    """An SVG is well-formed, uses the page's colour variables, loads nothing and has unique ids."""
    ids: dict[str, str] = {}
    for picture in plots.plots(make_demo_results(tmp_path)):
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


def test_equal_results_give_identical_plots(tmp_path: Path) -> None:
    """Equal results give identical plots."""
    assert plots.plots(make_demo_results(tmp_path)) == plots.plots(make_demo_results(tmp_path))


@pytest.mark.parametrize(
    "runs",
    [
        [make_ladder("1x1", 0)],
        [make_ladder("1x1", 0, GENERATOR_BOUND), make_ladder("2x1", 0, GENERATOR_BOUND)],
        [make_ladder("1x1", 1000, **UNKNOWN)],  # type: ignore[arg-type]
        [
            make_run(
                "1x1",
                make_step(500, rps=0.0, requests=0, locust_p95=0.0, nginx_p95=0.0, cpu_percent=0.0),
                make_step(1000),
            )
        ],
        [make_run("1x1", *(replace(make_step(users, rps=0.0, locust_p95=0.0), verdict=FAIL) for users in (1, 2)))],
        [make_run("1x1", make_step(500), make_step(1000), done=False), make_run("2x1", done=False)],
        [make_ladder(f"{n}x1", 500 * n) for n in range(1, 20)],
    ],
)
def test_sparse_results_can_be_plotted(runs: list[Run], tmp_path: Path) -> None:
    """Any results can be plotted, and unknown CPU is left out."""
    results = make_results(tmp_path, *runs)
    has_cpu = any(step.cpu_percent is not None for step in results.steps)
    assert [picture.title for picture in plots.plots(results)][3:] == ["CPU against users"] * has_cpu
    assert plots.save_main(results)


def test_single_number_of_users_gives_bars_only(tmp_path: Path) -> None:
    """If all steps had the same number of users, there are bars and no lines."""
    results = make_results(tmp_path, make_run("1x1", make_step(500)), make_run("2x1", make_step(500)))
    assert [(picture.title, picture.file) for picture in plots.plots(results)] == [("Users held at most", "plot.png")]
    assert plots.save_main(results) == tmp_path / "plot.png"


def test_results_without_steps_have_no_plots(tmp_path: Path) -> None:
    """Results without steps have no plots."""
    assert drawn() == drawn(make_run("1x1")) == []
    assert plots.save_main(make_results(tmp_path)) is None


def test_saved_png_contains_lines(tmp_path: Path) -> None:
    """The PNG, for pages that show no SVG, contains lines."""
    path = plots.save_main(make_demo_results(tmp_path))
    assert path == tmp_path / "plot.png"
    pixels = imread(path)
    assert pixels.shape[0] > 800
    assert pixels.shape[1] > 1000
    assert pixels.std() > 0.05


def test_generator_bound_marks_are_hollow() -> None:
    """Only generator-bound steps have hollow marks."""
    hollow = re.compile(r"fill: var\(--paper\); stroke: var\(--series")
    assert not hollow.search(drawn(LADDER)[1].svg)
    assert hollow.search(drawn(make_ladder("1x1", 1000, GENERATOR_BOUND))[1].svg)


def test_labels_do_not_overlap() -> None:
    """Labels of lines that end at one point do not overlap each other or another line's mark."""
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
    """The speed-up plot needs two numbers of CPUs, and shows the fit if there is one."""
    measured_points = [Point(n, 1000 * n / (1 + 0.1 * (n - 1)), "") for n in (1, 2, 4, 4, 8, 8)]
    assert speedup([], None) is None
    assert speedup(measured_points[2:4], None) is None
    assert speedup([Point(1, 0, ""), Point(2, 0, "")], None) is None
    plain, fitted = speedup(measured_points, None), speedup(measured_points, fit(measured_points))
    assert plain is not None
    assert fitted is not None
    assert "var(--series-1)" in fitted.svg
    assert "var(--series-1)" not in plain.svg
