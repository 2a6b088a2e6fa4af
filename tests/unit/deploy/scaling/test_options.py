"""Tests of the lab's options, which are environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.errors import CommandError
from deploy.scaling.generator import CLIENTS, Load
from deploy.scaling.options import VARIABLES, check, given, load, topologies
from deploy.scaling.placement import Placement
from deploy.stack.paths import ROOT


def names(cpus: int = 4, *, limits: bool = True, **environ: str) -> list[str]:
    """Return the names of the topologies that these variables select on a machine with ``cpus``."""
    return [topology.name for topology in topologies(environ, cpus, limits=limits)]


def test_default_topologies_are_vertical_and_horizontal_pairs() -> None:
    """The defaults are one replica with 1, 2 and 4 workers, and 2 and 4 replicas with one, with equal totals."""
    expected = ["1x3/1G:1", "1x3/1G:2", "1x3/1G:4", "2x1.5/512M:1", "4x0.75/256M:1"]
    assert names() == expected
    assert names(TOPOLOGIES="", CPUS="", MEMORY="", WORKERS="") == expected


def test_single_cpu_machine_shares_its_cpu() -> None:
    """On a machine with one CPU, service and generator share it."""
    assert names(1) == names(2) == ["1x1/1G:1", "1x1/1G:2", "1x1/1G:4", "2x0.5/512M:1", "4x0.25/256M:1"]


def test_memory_is_unlimited_on_backends_without_limits() -> None:
    """On a backend without memory limits, no limit is set, whatever the variables say."""
    assert names(limits=False) == ["1x3:1", "1x3:2", "1x3:4", "2x1.5:1", "4x0.75:1"]
    assert names(limits=False, MEMORY="2G", WORKERS="2") == ["1x3:2", "2x1.5:1"]


def test_topology_list_overrides_totals() -> None:
    """A list of topologies, or its name, overrides the totals."""
    assert names(TOPOLOGIES=" 2x1/1G  1x2:3 ", CPUS="x", WORKERS="x") == ["2x1/1G:1", "1x2:3"]
    assert names(TOPOLOGIES="workshop") == ["1x0.25/256M:1", "1x0.5/512M:1", "1x1/1G:1", "1x2/2G:2"]


def test_each_cpu_total_is_combined_with_workers() -> None:
    """Each total of CPUs is combined with each number of workers, without duplicates."""
    assert names(CPUS="1 2", WORKERS="1 2 2", MEMORY="512m") == [
        "1x1/512M:1", "1x1/512M:2", "2x0.5/256M:1", "1x2/512M:1", "1x2/512M:2", "2x1/256M:1",
    ]  # fmt: skip
    assert names(CPUS="0.5", WORKERS="1") == ["1x0.5/1G:1"]
    assert names(WORKERS="1", MEMORY="1.5G") == ["1x3/1.5G:1"]


@pytest.mark.parametrize("value", ["abc", "1 abc", "0", "-1", "1,2", "65", "nan", "inf", "1e400"])
def test_invalid_cpus_are_named_with_expectation(value: str) -> None:
    """Invalid CPUs are refused with the variable, the value and the expectation."""
    with pytest.raises(CommandError) as caught:
        names(CPUS=value)
    assert str(caught.value) == f"CPUS={value!r}: expected numbers of CPUs, as 0.5 1 2"


@pytest.mark.parametrize("value", ["abc", "1 abc", "0", "-1", "1.5", "1,2", "65", "nan", "inf"])
def test_invalid_workers_are_refused(value: str) -> None:
    """Workers that are not an integer are refused."""
    with pytest.raises(CommandError) as caught:
        names(WORKERS=value)
    assert str(caught.value) == f"WORKERS={value!r}: expected whole numbers, as 1 2 4"


@pytest.mark.parametrize("value", ["abc", "1", "0G", "-1G", "1T", "1G:4", "1G 2G", "1,5G", "/1G"])
def test_memory_without_a_valid_unit_is_refused(value: str) -> None:
    """Memory without a unit, or with text after it, is refused."""
    with pytest.raises(CommandError, match=r"^MEMORY=") as caught:
        names(MEMORY=value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", ["abc", "Workshop", "1x1,2x1", "1x1 and 2x1", "workshop 1x1", "1x1/1"])
def test_invalid_topology_is_refused_by_name(value: str) -> None:
    """An invalid topology in a list is refused by its text."""
    with pytest.raises(CommandError, match=r"^'[^ ]+' is no topology: expected REPLICASxCPUS/MEMORY:WORKERS"):
        names(TOPOLOGIES=value)


def test_empty_topology_list_is_refused_or_default() -> None:
    """A blank list of topologies is refused, and an empty one is the default."""
    try:
        default_names = names(TOPOLOGIES="  ")
    except CommandError as error:
        assert str(error).startswith("TOPOLOGIES=")  # noqa: PT017
    else:
        assert default_names == names()


def test_default_load_uses_a_process_per_generator_cpu() -> None:
    """The default load has light users, drawn rows and a process for each CPU of the generator."""
    assert load({}, Placement()) == Load("light", "/predict", None, 1)
    assert load({"CLIENT": "", "DATA": "", "LOCUST_PROCESSES": ""}, Placement("0", "1,2", 2)).processes == 2


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_can_be_chosen(client: str) -> None:
    """Each client can be selected."""
    assert load({"CLIENT": client}, Placement()).client == client


@pytest.mark.parametrize("value", ["Light", "heavy", " light"])
def test_unknown_client_error_lists_clients(value: str) -> None:
    """An unknown client is refused with the list of clients."""
    with pytest.raises(CommandError) as caught:
        load({"CLIENT": value}, Placement())
    assert str(caught.value) == f"CLIENT={value!r}: expected one of light, fast, batch"


def test_data_path_is_relative_absolute_or_in_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a file of rows is relative to the checkout, absolute, or below the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.csv").write_text("a\n1\n")
    for value, path in [
        ("README.md", ROOT / "README.md"),
        (str(tmp_path / "rows.csv"), tmp_path / "rows.csv"),
        ("~/rows.csv", tmp_path / "rows.csv"),
    ]:
        assert load({"DATA": value}, Placement()).data == path


@pytest.mark.parametrize("value", ["nowhere.csv", "deploy", "/", "README.md/x"])
def test_missing_data_file_is_refused_early(value: str) -> None:
    """A missing file of rows is refused before anything is started."""
    with pytest.raises(CommandError) as caught:
        load({"DATA": value}, Placement())
    assert str(caught.value) == f"DATA={value!r}: there is no such file"


def test_number_of_locust_processes_can_be_set() -> None:
    """The number of Locust's processes can be set."""
    assert load({"LOCUST_PROCESSES": "3"}, Placement("0", "1,2", 2)).processes == 3


@pytest.mark.parametrize("value", ["abc", "0", "-1", "65", "1.5"])
def test_invalid_process_count_is_refused(value: str) -> None:
    """A number of processes that is not an integer in range is refused."""
    with pytest.raises(CommandError) as caught:
        load({"LOCUST_PROCESSES": value}, Placement())
    assert str(caught.value) == f"LOCUST_PROCESSES={value!r}: expected a whole number from 1 to 64"


def test_only_relevant_variables_are_recorded() -> None:
    """The results record the variables that were set, without those that do not affect them."""
    assert given({"USERS": "10", "CLIENT": "", "PATH": "/bin", "DATA": "rows.csv"}) == {
        "USERS": "10",
        "DATA": "rows.csv",
    }
    assert given({}) == {}
    assert given(dict.fromkeys(VARIABLES, "1")) == dict.fromkeys(VARIABLES, "1")


@pytest.mark.parametrize(
    ("name", "value"),
    [("LOCUST_CPUS", "abc"), ("LOCUST_CPUS", "-1"), ("LOCUST_MEMORY", "much"), ("LOCUST_MEMORY", "1:2")],
)
def test_invalid_generator_limits_are_refused_by_name(name: str, value: str) -> None:
    """Invalid limits of the generator are refused by name before anything is started."""
    with pytest.raises(CommandError, match=f"^{name}='{value}': expected "):
        check({name: value})
    check({"LOCUST_CPUS": "0.5", "LOCUST_MEMORY": "512M"})
