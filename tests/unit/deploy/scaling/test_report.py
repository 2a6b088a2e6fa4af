"""Tests of the report, which has the same content in Markdown and HTML."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from deploy.scaling import conditions, report
from deploy.scaling.document import Document, Section, Table, Text
from deploy.scaling.markdown import markdown
from deploy.scaling.page import page
from deploy.scaling.results import Results, Run
from deploy.scaling.slo import Slo
from deploy.scaling.step import FAIL, GENERATOR_BOUND
from tests.support.lab_results import CONDITIONS, make_demo_results, make_ladder, make_results, make_run, make_step
from tests.support.programs.browser import Browser

EVIL = "<script>alert('1')</script> & \"quoted\" | `pipe` \n* line"
VOID = {"meta", "link", "br"}
SECTIONS = [
    "Four questions", "Plots", "What each topology held", "Every step", "Conditions", "Notes", "How to read it",
]  # fmt: skip


class Tags(HTMLParser):
    """A parser that checks that tags nest, and keeps the tags, headings and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.headings: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def tags(html: str) -> Tags:
    parser = Tags()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def written(results: Results) -> tuple[str, str]:
    path = report.write_report(results)
    assert path == results.folder / "report.html"
    return path.read_text(), (results.folder / "report.md").read_text()


def test_demo_report_has_all_sections_in_order(tmp_path: Path) -> None:
    """Both forms have the conclusion, answers, plots, tables, conditions and explanations in this order."""
    html, text = written(make_demo_results(tmp_path))
    assert tags(html).headings == re.findall("^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert text.splitlines()[2].startswith("**1x2/2G:2 held the most: at least 8,500 users")
    assert "| 1x1/1G:1 | 1 | 1G | 3,500 | 2,000 | 44.8 | 0 % | missed the SLO at 4,000 users: CPU 93.6 % |" in text
    assert "| 1x1/1G:1 | 4,500 | 2,400 | 1,486 | 1,485 | 0 % | 98 % | 40 % | 45.6 % | fail: P95 1486 ms" in text
    assert "| command | make compare USERS=10000 |" in text
    assert "| model | name covertype, version 3, engine forest |" in text
    assert "- Nothing else ran." in text
    assert text.count("![") == 1
    assert (tmp_path / "plot.png").is_file()


def test_command_is_shown_with_its_quotes(tmp_path: Path) -> None:
    """The command of the measurement is shown with its quotes, so that it can be repeated."""
    results = make_demo_results(tmp_path)
    results.conditions["options"] = {"CPUS": "0.5 1", "USERS": "2000"}
    assert "| command | make compare CPUS='0.5 1' USERS=2000 |" in written(results)[1]


def test_failures_stand_beside_the_verdict(tmp_path: Path) -> None:
    """Failures by name stand beside the verdict, and the reason for generator-bound steps beside the result."""
    steps = [make_step(500, failures=12, failure_kinds="timeout 12"), make_step(1000)]
    bound = replace(make_step(1500), verdict=GENERATOR_BOUND, reason="Locust's CPU 97 %")
    html, text = written(make_results(tmp_path, make_run("1x1", *steps, bound)))
    assert "| pass; failed: timeout 12 |" in text
    assert '<span class="good">pass; failed: timeout 12</span>' in html
    assert "the generator was the limit at 1,500 users (Locust's CPU 97 %) |" in text


def test_page_has_no_script_or_external_address(tmp_path: Path) -> None:
    """The page has no script and no external address."""
    html, _ = written(make_demo_results(tmp_path))
    parser = tags(html)
    assert not parser.seen & {"script", "iframe", "img", "object", "embed", "form"}
    assert {address[:1] for address in parser.addresses} == {"#", "d"}
    assert [address for address in parser.addresses if not address.startswith("#")] == ["data:,"]
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [make_run("1x1", done=False)],
        [make_run("1x1", make_step(500))],
        [
            make_run(
                "1x1", make_step(500, requests=0, failures=0, rps=0.0, locust_mean=0.0, locust_p95=0.0, nginx_p95=0.0)
            )
        ],
        [make_ladder("1x1", 0, GENERATOR_BOUND), make_ladder("2x1", 0, GENERATOR_BOUND)],
        [make_ladder("1x1", 0), make_ladder("2x1", 0)],
        [
            make_ladder("1x1", 1000),
            make_run("2x1", make_step(500), done=False),
            make_run("4x1", ended="no replica started"),
        ],
        [make_run("1x1", make_step(500, **dict.fromkeys(("cpus", "cpu_percent", "memory", "memory_percent"))))],
        [make_ladder(f"{n}x1/1G", 500 * n) for n in range(1, 9)],
        [make_ladder(f"1x{n}/1G", 800 * n) for n in range(1, 9)],
    ],
)
def test_report_is_written_for_any_result(runs: list[Run], tmp_path: Path) -> None:
    """A report is written for empty, interrupted and incomplete results."""
    html, text = written(make_results(tmp_path, *runs))
    assert tags(html).headings[-1] == "How to read it"
    for word in ("None", "nan", "inf "):
        assert word not in text


def test_loaded_results_give_the_same_report(tmp_path: Path) -> None:
    """A report written again from loaded results is identical to the byte."""
    results = make_demo_results(tmp_path)
    results.save()
    assert written(results) == written(Results.load(tmp_path))


def test_unfinished_runs_are_listed_with_reasons(tmp_path: Path) -> None:
    """Only unfinished runs are listed with their reasons."""
    runs = [
        make_ladder("1x1", 1000),
        make_run("2x1", make_step(500), done=False),
        make_run("4x1", ended="no replica started"),
    ]
    _, text = written(make_results(tmp_path, *runs, notes=[]))
    assert "- 2x1:1 was not finished (1 steps): interrupted." in text
    assert "- 4x1:1 was not measured (0 steps): no replica started." in text
    assert "- 1x1:1" not in text


def test_everything_is_escaped(tmp_path: Path) -> None:
    """Names, reasons, notes and conditions are escaped and stay within their cells."""
    step = replace(make_step(500), verdict=FAIL, reason=EVIL)
    run = make_run("1x1", step, ended=EVIL, done=False)
    run.steps = [replace(step, topology=EVIL)]
    evil = dict.fromkeys(["verb", "machine", "slo", "answer", EVIL], EVIL) | {"notes": [EVIL], "options": {EVIL: EVIL}}
    html, text = written(Results(tmp_path, evil, [run]))
    assert "script" not in tags(html).seen
    assert "&lt;script&gt;" in html
    assert "<" not in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 3
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines.splitlines()}) == 1


@pytest.mark.parametrize(
    "given_conditions", [{}, {"notes": None, "options": None, "model": None}, {"options": "text", "ladder": ["a", "b"]}]
)
def test_report_works_without_conditions(given_conditions: dict[str, Any], tmp_path: Path) -> None:
    """A report needs no conditions."""
    html, _ = written(Results(tmp_path, given_conditions, [make_ladder("1x1", 500)]))
    assert "None" not in html


def test_plotted_bounds_are_those_of_the_objective() -> None:
    """The bounds in the plots are those of the recorded objective."""
    slo = Slo(p95_ms=250.5, failure_percent=0.1, cpu_percent=75, memory_percent=80)
    assert conditions.objective({"slo": slo.words}) == slo
    assert conditions.objective({"slo": Slo(p95_ms=3_600_000).words}) == Slo(p95_ms=3_600_000)
    assert conditions.objective({}) == Slo()


def test_search_result_leads_the_report(tmp_path: Path) -> None:
    """The answer of a search comes before the other answers."""
    html, text = written(make_results(tmp_path, make_run("1x1", make_step(500)), answer="500 users are held by 1x1"))
    assert tags(html).headings[0] == "What was sought"
    assert text.index("500 users are held by 1x1") < text.index("Four questions")
    assert "| answer" not in text


def test_summary_prints_conclusion_and_table(tmp_path: Path) -> None:
    """The terminal shows the conclusion, which is a search's answer if there is one, and the table."""
    lines = report.summary(make_results(tmp_path, make_ladder("1x1/1G", 500)))
    assert lines[0].startswith("1x1/1G:1 held 500 users")
    assert lines[2].split() == ["topology", "CPU", "RAM", "users", "RPS", "P95", "ms", "failures", "result"]
    assert lines[3].split()[:5] == ["1x1/1G:1", "1", "1G", "500", "286"]
    sought = make_results(tmp_path, make_ladder("1x1/1G", 500), answer="sought and found")
    assert report.summary(sought) == ["sought and found", *lines[1:]]
    assert report.summary(make_results(tmp_path))[0] == "Nothing was measured."


@settings(deadline=None)
@given(st.text())
def test_arbitrary_text_is_escaped(text: str) -> None:
    """No text breaks a page or a line of Markdown."""
    document = Document(text, text, [Section("one", [Text(text, text), Table((text, text), [[text, text]])])])
    assert tags(page(document)).headings == ["one"]
    assert sum(line.startswith("| ") for line in markdown(document).split("\n")) == 3


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return Browser.find(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write_report(make_demo_results(tmp_path_factory.mktemp("results")))


def test_browser_shows_all_sections_without_console_output(browser: Browser, shown: Path) -> None:
    """A real browser shows all sections and four plots, and its console is empty."""
    html = browser.document(shown)
    assert re.findall(r"<h2>(.*?)</h2>", html) == SECTIONS
    assert html.count("<svg") == 5
    assert browser.complaints(shown) == []


def test_browser_blocks_external_resources(browser: Browser, tmp_path: Path) -> None:
    """An external resource in a page is blocked, and the console reports it."""
    path = tmp_path / "bad.html"
    path.write_text(page(Document("bad", "bad", [])).replace("</body>", "<img src='http://127.0.0.1:9/a'></body>"))
    assert "Content Security Policy" in " ".join(browser.complaints(path))


@pytest.mark.parametrize(("mode", "width"), [("light", 1100), ("dark", 1100), ("light", 500)])
def test_browser_shows_text_and_colours(browser: Browser, shown: Path, tmp_path: Path, mode: str, width: int) -> None:
    """The page has visible text and colours in light and dark mode, on wide and narrow screens."""
    flags = ["--force-dark-mode"] if mode == "dark" else []
    pixels = imread(browser.picture(shown, tmp_path / "page.png", (width, 1600), *flags))[..., :3]
    assert pixels.shape[:2] == (1600, width)
    assert (pixels[0, 0].mean() < 0.3) == (mode == "dark")
    assert pixels.std() > 0.05
    assert ((pixels.max(axis=2) - pixels.min(axis=2)) > 0.4).mean() > 0.005


def test_conditions_of_the_tests_are_complete() -> None:
    """The conditions in these tests are all that the contract names."""
    names = {"verb", "machine", "commit", "backend", "model", "user", "slo", "ladder", "started", "options", "notes"}
    assert set(CONDITIONS) == names
