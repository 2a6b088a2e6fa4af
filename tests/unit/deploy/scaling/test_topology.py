"""What is measured, in words and back."""

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
    """Memory and workers may be left out; workers then follow the CPUs that a replica begins."""
    assert Topology.parse(text) == topology
    assert topology.name == name


@given(topologies)
def test_name_reads_back(topology: Topology) -> None:
    """What a topology is called is read as the same topology."""
    assert Topology.parse(topology.name) == topology


@pytest.mark.parametrize("text", ["1x1/1.3G", "1x1/0.7G:2", "2x1/300.5M", "1x0.1234567"])
def test_what_was_read_is_called_so(text: str) -> None:
    """However finely a user says it, the name of what was read is read as the same: results are found again by it."""
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
    """Anything else is refused with what was expected."""
    with pytest.raises(CommandError) as caught:
        Topology.parse(text)
    assert str(caught.value).startswith(f"{text!r} is no topology: expected REPLICASxCPUS/MEMORY:WORKERS, as ")


@pytest.mark.parametrize("text", ["1x1/0M", "1x1/0G", "1x1/0.0G", "1x1:00"])
def test_zero_memory_or_workers_is_refused(text: str) -> None:
    """No memory at all, or no worker, is no topology in any spelling."""
    with pytest.raises(CommandError, match="is no topology"):
        Topology.parse(text)


@pytest.mark.parametrize("text", ["9" * 5000 + "x1", "1x" + "9" * 400, "1x1/" + "9" * 400 + "G", "1x1:" + "9" * 5000])
def test_numbers_too_long_to_be_meant(text: str) -> None:
    """A number that no machine can hold is refused as any other bad text."""
    with pytest.raises(CommandError, match="is no topology"):
        Topology.parse(text)


@given(topologies)
def test_slug_has_only_safe_characters(topology: Topology) -> None:
    """A topology's folder has no character that a shell, a path or another system minds."""
    assert re.fullmatch(r"[0-9][0-9A-Za-z.-]*[0-9]", topology.slug)


@given(topologies, topologies)
def test_different_topologies_have_different_slugs(one: Topology, other: Topology) -> None:
    """Two names have two folders."""
    assert (one.slug == other.slug) == (one.name == other.name)


def test_totals_multiply_by_the_number_of_replicas() -> None:
    """CPUs and memory are each replica's, and their totals all replicas'."""
    topology = Topology(4, 1, 0.25, 256 * MEGABYTE)
    assert (topology.total_cpus, topology.total_memory) == (1.0, GIGABYTE)
    assert Topology(4, 1, 0.25).total_memory is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [("1x1", "single"), ("1x0.5:1", "single"), ("1x1:2", "vertical"), ("2x1", "horizontal"), ("2x2:4", "horizontal")],
)
def test_several_replicas_are_horizontal_scaling(text: str, kind: str) -> None:
    """One replica is scaled by its workers, and several are horizontal whatever each is."""
    assert Topology.parse(text).kind == kind


def test_pairs_are_vertical_and_horizontal_without_duplicates() -> None:
    """One replica with k workers, and k replicas with one, each once."""
    names = [one.name for one in pairs(2.0, GIGABYTE, (1, 2, 4))]
    assert names == ["1x2/1G:1", "1x2/1G:2", "1x2/1G:4", "2x1/512M:1", "4x0.5/256M:1"]
    assert [one.name for one in pairs(2.0, None, (2, 2))] == ["1x2:2", "2x1:1"]


@given(st.integers(1, 64).map(lambda quarters: quarters / 4), st.sampled_from([None, GIGABYTE]), st.integers(1, 16))
def test_pairs_of_equal_totals(cpus: float, memory: int | None, count: int) -> None:
    """Both of a pair have the same in all, to a thousandth of a CPU and a megabyte each."""
    found = pairs(cpus, memory, (count,))
    assert all(abs(one.total_cpus - cpus) <= count / 1000 for one in found)
    totals = [one.total_memory for one in found]
    assert all(total is None or GIGABYTE - count * MEGABYTE < total <= GIGABYTE for total in totals)
    assert len(found) == (1 if count == 1 else 2)


@pytest.mark.parametrize("count", [3, 5, 6, 7])
def test_no_pair_has_more(count: int) -> None:
    """Where the CPUs do not divide evenly, replicas have no more than one alone: a whole CPU would be taken for it."""
    assert max(one.total_cpus for one in pairs(2.0, GIGABYTE, (count,))) <= 2


@pytest.mark.parametrize("count", [3, 5, 6, 7])
def test_pairs_read_back(count: int) -> None:
    """Nor does a pair that does not divide evenly forget its size by being named."""
    found = pairs(2.0, GIGABYTE, (count,))
    assert [Topology.parse(one.name) for one in found] == found


def test_presets_parse_into_topologies() -> None:
    """Each named list holds topologies; the workshop's is one replica of each of its four sizes."""
    read = {name: [Topology.parse(word) for word in text.split()] for name, text in PRESETS.items()}
    assert all(read.values())
    assert [(one.replicas, one.cpus, one.memory) for one in read["workshop"]] == [
        (1, 0.25, 256 * MEGABYTE), (1, 0.5, 512 * MEGABYTE), (1, 1, GIGABYTE), (1, 2, 2 * GIGABYTE),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (MEGABYTE, "1M"), (256 * MEGABYTE, "256M"), (300 * MEGABYTE, "300M"), (GIGABYTE, "1G"),
        (1536 * MEGABYTE, "1.5G"), (1500 * MEGABYTE, "1500M"), (64 * GIGABYTE, "64G"),
    ],
)  # fmt: skip
def test_size_uses_gigabytes_in_quarter_steps(memory: int, words: str) -> None:
    """Bytes are gigabytes where these come in quarters, else megabytes."""
    assert size(memory) == words
