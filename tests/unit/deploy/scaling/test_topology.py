"""Tests of parsing and naming topologies."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import CommandError
from deploy.scaling.topology import PRESETS, Topology, pairs, size

MEGABYTE, GIGABYTE = 1 << 20, 1 << 30

topologies = st.builds(
    Topology,
    st.integers(1, 99),
    st.integers(1, 99),
    st.integers(1, 64_000).map(lambda thousandths: thousandths / 1000),
    st.none() | st.integers(1, 65_536).map(lambda megabytes: megabytes * MEGABYTE),
)


@pytest.mark.parametrize(
    ("text", "topology", "name"),
    [
        ("1x1", Topology(1, 1, 1.0), "1x1:1"),
        ("4x0.25/256M", Topology(4, 1, 0.25, 256 * MEGABYTE), "4x0.25/256M:1"),
        ("1x2/1G:4", Topology(1, 4, 2.0, GIGABYTE), "1x2/1G:4"),
        ("1x2/1G", Topology(1, 2, 2.0, GIGABYTE), "1x2/1G:2"),
        ("2x1.5", Topology(2, 2, 1.5), "2x1.5:2"),
        ("1x1/1.5G", Topology(1, 1, 1.0, 1536 * MEGABYTE), "1x1/1.5G:1"),
        ("1x1/1024M", Topology(1, 1, 1.0, GIGABYTE), "1x1/1G:1"),
        ("03X01.0/1g:02", Topology(3, 2, 1.0, GIGABYTE), "3x1/1G:2"),
    ],
)
def test_topology_memory_and_workers_are_optional(text: str, topology: Topology, name: str) -> None:
    """Memory and workers are optional; the default is a worker for each started CPU."""
    assert Topology.parse(text) == topology
    assert topology.name == name


@given(topologies)
def test_name_is_parsed_to_the_same_topology(topology: Topology) -> None:
    """The name of a topology is parsed to the same topology."""
    assert Topology.parse(topology.name) == topology


@pytest.mark.parametrize("text", ["1x1/1.3G", "1x1/0.7G:2", "2x1/300.5M", "1x0.1234567"])
def test_parsed_topology_is_named_by_its_rounded_figures(text: str) -> None:
    """The name of a parsed topology is parsed to the same topology, however fine the user's figures were."""
    topology = Topology.parse(text)
    assert Topology.parse(topology.name) == topology


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1", "x1", "1x", "0x1", "00x1", "1x0", "1x0.0", "-1x1", "1x-1", "1x1/", "1x1/1", "1x1/G", "1x1/1K",
        "1x1/1GB", "1x1:", "1x1:0", "1x1:-1", "1x1:1.5", "1x1/1G:1:1", "1x.5", "1x1.", "1,5x1", "1x1,5", " 1x1", "1x1 ",
        "1x1\n", "1x1/1G 2x1", "٣x1", "1x1e3", "nanx1", "1xinf", "workshop",
    ],
)  # fmt: skip
def test_invalid_topology_is_refused_with_expectation(text: str) -> None:
    """An invalid text is refused with the expectation."""
    with pytest.raises(CommandError) as caught:
        Topology.parse(text)
    assert str(caught.value).startswith(f"{text!r} is no topology: expected REPLICASxCPUS/MEMORY:WORKERS, as ")


@pytest.mark.parametrize("text", ["1x1/0M", "1x1/0G", "1x1/0.0G", "1x1:00"])
def test_zero_memory_or_workers_is_refused(text: str) -> None:
    """Zero memory or zero workers are refused in any spelling."""
    with pytest.raises(CommandError, match="is no topology"):
        Topology.parse(text)


@pytest.mark.parametrize("text", ["9" * 5000 + "x1", "1x" + "9" * 400, "1x1/" + "9" * 400 + "G", "1x1:" + "9" * 5000])
def test_too_large_number_is_refused(text: str) -> None:
    """A number too large for any machine is refused like other invalid text."""
    with pytest.raises(CommandError, match="is no topology"):
        Topology.parse(text)


@given(topologies)
def test_slug_has_only_safe_characters(topology: Topology) -> None:
    """The folder name of a topology has only characters that are safe in shells and paths."""
    assert re.fullmatch(r"[0-9][0-9A-Za-z.-]*[0-9]", topology.slug)


@given(topologies, topologies)
def test_different_topologies_have_different_slugs(first: Topology, second: Topology) -> None:
    """Two topologies have two folder names."""
    assert (first.slug == second.slug) == (first.name == second.name)


def test_totals_multiply_by_the_number_of_replicas() -> None:
    """The totals are the CPUs and the memory of a replica times the number of replicas."""
    topology = Topology(4, 1, 0.25, 256 * MEGABYTE)
    assert (topology.total_cpus, topology.total_memory) == (1.0, GIGABYTE)
    assert Topology(4, 1, 0.25).total_memory is None


@pytest.mark.parametrize(
    ("text", "scaling"),
    [("1x1", "single"), ("1x0.5:1", "single"), ("1x1:2", "vertical"), ("2x1", "horizontal"), ("2x2:4", "horizontal")],
)
def test_several_replicas_are_horizontal_scaling(text: str, scaling: str) -> None:
    """One replica is scaled vertically, several are scaled horizontally."""
    assert Topology.parse(text).kind == scaling


def test_pairs_are_vertical_and_horizontal_without_duplicates() -> None:
    """The pairs are one replica with k workers and k replicas with one, without duplicates."""
    names = [topology.name for topology in pairs(2.0, GIGABYTE, (1, 2, 4))]
    assert names == ["1x2/1G:1", "1x2/1G:2", "1x2/1G:4", "2x1/512M:1", "4x0.5/256M:1"]
    assert [topology.name for topology in pairs(2.0, None, (2, 2))] == ["1x2:2", "2x1:1"]


@given(st.integers(1, 64).map(lambda quarters: quarters / 4), st.sampled_from([None, GIGABYTE]), st.integers(1, 16))
def test_pairs_have_equal_totals(cpus: float, memory: int | None, count: int) -> None:
    """The totals of a pair are equal to a thousandth of a CPU and a megabyte per replica."""
    topologies = pairs(cpus, memory, (count,))
    assert all(abs(topology.total_cpus - cpus) <= count / 1000 for topology in topologies)
    totals = [topology.total_memory for topology in topologies]
    assert all(total is None or GIGABYTE - count * MEGABYTE < total <= GIGABYTE for total in totals)
    assert len(topologies) == (1 if count == 1 else 2)


@pytest.mark.parametrize("count", [3, 5, 6, 7])
def test_horizontal_pair_has_no_more_than_the_vertical(count: int) -> None:
    """If the CPUs do not divide evenly, the replicas together have no more than the single one."""
    assert max(topology.total_cpus for topology in pairs(2.0, GIGABYTE, (count,))) <= 2


@pytest.mark.parametrize("count", [3, 5, 6, 7])
def test_names_of_pairs_are_parsed_to_the_same_sizes(count: int) -> None:
    """The names of a pair that does not divide evenly are parsed to the same sizes."""
    topologies = pairs(2.0, GIGABYTE, (count,))
    assert [Topology.parse(topology.name) for topology in topologies] == topologies


def test_presets_parse_into_topologies() -> None:
    """Each named list can be parsed; the workshop's is one replica of each of four sizes."""
    read = {name: [Topology.parse(word) for word in text.split()] for name, text in PRESETS.items()}
    assert all(read.values())
    assert [(topology.replicas, topology.cpus, topology.memory) for topology in read["workshop"]] == [
        (1, 0.25, 256 * MEGABYTE), (1, 0.5, 512 * MEGABYTE), (1, 1, GIGABYTE), (1, 2, 2 * GIGABYTE),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("memory", "text"),
    [
        (MEGABYTE, "1M"), (256 * MEGABYTE, "256M"), (300 * MEGABYTE, "300M"), (GIGABYTE, "1G"),
        (1536 * MEGABYTE, "1.5G"), (1500 * MEGABYTE, "1500M"), (64 * GIGABYTE, "64G"),
    ],
)  # fmt: skip
def test_size_uses_gigabytes_in_quarter_steps(memory: int, text: str) -> None:
    """Memory is shown in gigabytes if it is a multiple of a quarter, else in megabytes."""
    assert size(memory) == text
