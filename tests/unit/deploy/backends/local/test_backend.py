"""Tests of the verbs of the local backend, with a fake supervisord whose programs answer as soon as they run."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.errors import CommandError
from deploy.rollout import replica_client
from deploy.rollout.promotion import Version
from deploy.rollout.replica_client import OPEN_ACCESS
from deploy.stack.code import code_mismatch
from deploy.stack.paths import ROOT, Layout
from deploy.stack.record import Record
from deploy.stack.specification import Stack
from server.system.platform import usable_cpus
from tests.support import certificates
from tests.support.fake_local import CANDIDATE, DIGEST, Local
from tests.support.ports import free_port, port_in_use

NOTHING_RUNS = "nothing is running here; start it with: make up"
ADDED_SERVICES = ["add locust", "add log-rotation", "add nginx"]
SERVICES = ["locust", "log-rotation", "nginx"]


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Local:
    """A stack that does not run."""
    monkeypatch.chdir(tmp_path)  # The backend changes the working directory.
    return Local(Layout(tmp_path / "var"))


def replaced(*names: str) -> list[str]:
    """Return the events of programs that are replaced one after another, each ready before the next one stops."""
    return [event for name in names for event in (f"remove {name}", f"add {name}", f"ready {name}")]


def ready(*names: str) -> list[str]:
    return [f"ready {name}" for name in names]


# --- up ---------------------------------------------------------------------------------------------------------------


def test_up_starts_replicas_then_nginx_then_predicts(local: Local) -> None:
    """The first start resolves the model, starts replicas before Nginx, and ends with a prediction."""
    replicas = ready("replica-1", "replica-2")
    assert local.up(N="2") == [
        "stop leftovers", "model", "start supervisord", "add replica-1", "add replica-2", *replicas, *ADDED_SERVICES,
        "predict",
    ]  # fmt: skip
    assert local.supervisord.names() == [*SERVICES, "replica-1", "replica-2"]
    wanted = local.record().wanted
    assert (wanted.replicas, str(wanted.http_port)) == (2, local.ports["HTTP_PORT"])


def test_up_again_changes_nothing(local: Local) -> None:
    """A second start resolves the model and predicts, but starts and stops nothing."""
    local.up(N="2")
    state = local.supervisord.info().keys(), local.record()
    assert local.up() == ["model", "predict"]
    assert (local.supervisord.info().keys(), local.record()) == state


def test_changed_setting_replaces_replicas_one_by_one(local: Local) -> None:
    """Each replica is ready with the new setting before the next one stops; Nginx and Locust keep running."""
    local.up(N="3")
    names = ("replica-1", "replica-2", "replica-3")
    assert local.up(MAX_PENDING="4000") == ["model", *replaced(*names), "predict"]
    assert local.environments("MAX_PENDING") == ["4000"] * 3
    assert local.record().wanted.environment == {"MAX_PENDING": "4000"}


def test_other_code_replaces_replicas(local: Local) -> None:
    """Only replicas that run other code than the checkout are replaced."""
    local.up(N="2")
    local.age("replica-2")
    assert local.up() == ["model", *replaced("replica-2"), "predict"]


REPLACED_BESIDE_A_SECOND = ["add replica-2", "ready replica-2", *replaced("replica-1"), "remove replica-2"]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("cause", ["setting", "code"])
def test_single_replica_is_replaced_while_a_second_one_answers(local: Local, cause: str, *, full: bool) -> None:
    """A single replica is replaced while a temporary second one answers, also if MLflow was started before."""
    local.up(full=full, MAX_PENDING="3000")
    if cause == "code":
        local.age("replica-1")
    events = local.up(MAX_PENDING="3000" if cause == "code" else "4000")
    assert events == [*(["ready mlflow"] if full else []), "model", *REPLACED_BESIDE_A_SECOND, "predict"]
    assert local.record().wanted.replicas == 1


def test_fewer_replicas_need_no_temporary_replica(local: Local) -> None:
    """Replicas that will be removed answer while the remaining one is replaced."""
    local.up(N="3")
    assert local.up(N="1", MAX_PENDING="4000") == [
        "model", *replaced("replica-1"), "remove replica-2", "remove replica-3", "predict",
    ]  # fmt: skip


@pytest.mark.parametrize("state", ["STOPPING", "STOPPED", "EXITED", "FATAL"])
def test_up_starts_ended_programs(local: Local, state: str) -> None:
    """Programs that were stopped, or that supervisord gave up, are started again."""
    local.up()
    local.supervisord.end("replica-1", state)
    local.supervisord.end("nginx", state)
    assert local.up() == ["model", "start replica-1", "start nginx", *ready("replica-1"), "predict"]


def test_ended_replica_is_ready_before_another_is_replaced(local: Local) -> None:
    """A replica that had ended is started and ready before another one is replaced."""
    local.up(N="2")
    local.supervisord.end("replica-2", "EXITED")
    events = local.up(MAX_PENDING="4000")
    assert events.index("ready replica-2") < events.index("remove replica-1")


def test_up_restarts_replica_without_its_socket(local: Local) -> None:
    """A replica whose socket file was deleted is unreachable and is restarted."""
    local.up(N="2")
    (local.layout.run / "1.sock").unlink()
    assert local.up() == ["model", "stop replica-1", "start replica-1", "ready replica-1", "predict"]


def test_up_after_supervisord_was_killed_starts_a_new_stack(local: Local) -> None:
    """After supervisord was killed, its leftovers are stopped and a new stack starts from the options alone."""
    local.up(N="2")
    local.supervisord.kill()
    assert local.up()[:3] == ["stop leftovers", "model", "start supervisord"]
    assert local.record().wanted.replicas == 1


def test_up_prints_the_note_of_the_prediction(local: Local, capsys: pytest.CaptureFixture[str]) -> None:
    """An example that could not be predicted because of a limit is a note, and the stack runs."""
    local.client.note = "the example request got status 429"
    local.up()
    assert "note: the example request got status 429\n" in capsys.readouterr().out


def test_secrets_stay_out_of_the_programs(local: Local, tmp_path: Path) -> None:
    """Locust's key is in a file that only this user can read, and not in the environment of supervisord."""
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-sixteen-or-more\n")
    keys.chmod(0o600)
    local.up(API_KEYS_FILE=str(keys), API_KEY="a-key-of-sixteen-or-more", S3_BUCKET="models", LANG="C")
    assert local.supervisord.environ.keys() >= {"LANG", "API_KEYS_FILE"}
    assert not local.supervisord.environ.keys() & {"API_KEY", "S3_BUCKET"}
    assert local.layout.client_key.read_text() == "a-key-of-sixteen-or-more"
    assert local.layout.client_key.stat().st_mode & 0o777 == 0o600
    assert "a-key" not in "".join(program.text for program in local.supervisord.programs.values())


def test_tls_key_copy_is_readable_by_this_user_only(local: Local, tmp_path: Path) -> None:
    """Nginx's copy of the TLS key is readable by this user only, whatever the mode of the original."""
    original = certificates.issue(tmp_path)
    original.key.chmod(0o644)
    local.up(TLS_CERT=str(original.cert), TLS_KEY=str(original.key), HTTPS_PORT=str(free_port()))
    assert local.layout.tls_key.read_bytes() == original.key.read_bytes()
    assert local.layout.tls_key.stat().st_mode & 0o777 == 0o600


# --- an up that fails -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "log", "reason"),
    [
        ("replica-2", "a line\nforkcast: the model has no signature\n", "the model has no signature"),
        ("nginx", "nginx: [emerg] bind() failed\n", "nginx: [emerg] bind() failed"),
        ("locust", "", "it printed nothing"),
    ],
)
def test_failed_first_up_leaves_nothing(local: Local, name: str, log: str, reason: str) -> None:
    """If any program does not start, its reason is the error, everything stops, and no record is left."""
    local.supervisord.fail(name, log)
    assert local.refused_up(N="2") == f"{name} did not start: {reason}"
    assert local.events[-1] == "shut down"
    assert Record.load(local.layout) is None
    assert list(local.layout.run.iterdir()) == []


def test_up_with_a_failed_example_leaves_nothing(local: Local) -> None:
    """A model that does not predict its own example is not served."""
    local.client.error = CommandError("the model's own example got status 500")
    assert local.refused_up() == "the model's own example got status 500"
    assert local.events[-2:] == ["predict", "shut down"]
    assert Record.load(local.layout) is None


def test_missing_model_starts_nothing(local: Local) -> None:
    """Without a model not even supervisord starts."""
    local.missing_model = "there is no such model"
    assert local.refused_up() == "there is no such model"
    assert local.events == ["stop leftovers", "model", "shut down"]


def test_failed_supervisord_start_is_the_error(local: Local) -> None:
    """If supervisord does not start, its reason is the error and no record is left."""
    local.supervisord.cannot_start = "supervisord did not start: no room"
    assert local.refused_up() == "supervisord did not start: no room"
    assert Record.load(local.layout) is None


def test_refused_nginx_configuration_changes_nothing(local: Local, tmp_path: Path) -> None:
    """If Nginx refuses its configuration, its reason is the error and no program is changed."""
    local.up()
    script = tmp_path / "nginx"
    script.write_text("#!/bin/sh\necho 'nginx: [emerg] too many names' >&2\nexit 1\n")
    script.chmod(0o755)
    local.nginx = str(script)
    assert local.refused_up(N="2") == "nginx refuses its configuration: nginx: [emerg] too many names"
    assert local.events == ["model"]


def test_missing_nginx_starts_nothing(local: Local) -> None:
    """Nginx is searched before the model is resolved."""
    local.nginx = ""
    assert local.refused_up() == "nginx is missing"
    assert local.events == ["stop leftovers"]


def test_used_port_starts_nothing(local: Local) -> None:
    """A port that another program uses is refused before anything starts; the error names the variable."""
    with port_in_use() as port:
        local.ports["LOCUST_PORT"] = str(port)
        assert local.refused_up() == f"port {port} is in use by another program; choose another with LOCUST_PORT="
    assert local.events == ["stop leftovers"]


def test_equal_ports_are_refused(local: Local) -> None:
    """Nginx and Locust cannot share a port."""
    local.ports["LOCUST_PORT"] = port = local.ports["HTTP_PORT"]
    assert local.refused_up() == f"LOCUST_PORT={port}: expected another port, since HTTP_PORT is {port} too"
    assert local.events == ["stop leftovers"]


@pytest.mark.parametrize("replicas", ["1", "2"])
def test_failed_change_restores_the_previous_stack(local: Local, replicas: str) -> None:
    """If a replica does not start with a new setting, all replicas serve with the old one again."""
    local.up(N=replicas)
    previous = local.record()
    local.supervisord.fail("replica-2", "forkcast: no room\n", having="MAX_PENDING=4000")
    assert local.refused_up(MAX_PENDING="4000") == "replica-2 did not start: no room"
    assert local.environments("MAX_PENDING") == [None] * int(replicas)
    assert all(local.supervisord.programs[f"replica-{slot}"].pid for slot in range(1, int(replicas) + 1))
    assert local.record() == previous
    assert "shut down" not in local.events


def test_single_replica_keeps_running_if_the_second_one_fails(local: Local) -> None:
    """A single replica keeps running if its temporary second replica does not start."""
    local.up()
    pid = local.supervisord.programs["replica-1"].pid
    local.supervisord.fail("replica-2", having="MAX_PENDING=4000")
    local.refused_up(MAX_PENDING="4000")
    assert local.events == ["model", "add replica-2", "remove replica-2"]
    assert local.supervisord.programs["replica-1"].pid == pid


def test_undone_change_keeps_a_replica_answering(local: Local) -> None:
    """A change that is undone after a failed example also uses a temporary second replica."""
    local.up()
    local.client.error = CommandError("the model's own example got status 500")
    local.refused_up(MAX_PENDING="4000")
    assert local.events == ["model", *REPLACED_BESIDE_A_SECOND, "predict", *REPLACED_BESIDE_A_SECOND]
    assert local.environments("MAX_PENDING") == [None]


def test_restored_programs_that_fail_do_not_hide_the_first_error(local: Local) -> None:
    """The first error is reported if the previous stack cannot be restored either."""
    local.up(N="2", MAX_PENDING="3000")
    local.supervisord.fail("replica-1", "forkcast: no room\n", having="MAX_PENDING=3000")
    local.client.error = CommandError("the model's own example got status 500")
    assert local.refused_up(MAX_PENDING="4000") == "the model's own example got status 500"
    assert local.events[-2:] == ["remove replica-1", "add replica-1"]


@pytest.mark.parametrize("cleanup", [CommandError("supervisord does not answer"), OSError("the disk is full")])
def test_failed_cleanup_does_not_hide_the_first_error(
    local: Local, monkeypatch: pytest.MonkeyPatch, cleanup: Exception
) -> None:
    """The first error is reported whatever fails while it is undone."""

    def fail(*_arguments: object) -> None:
        raise cleanup

    backend = local.backend()
    monkeypatch.setattr(backend, "down", fail)
    monkeypatch.setattr(backend, "_converge", fail)
    for previous in (None, Record(Stack())):
        with pytest.raises(CommandError, match=r"^the first error$"), backend._stack_restored_on_failure(previous):
            raise CommandError("the first error")


# --- limits -----------------------------------------------------------------------------------------------------------


def test_up_sets_and_keeps_cpus(local: Local) -> None:
    """CPUS sets the CPUs of each replica; without it the stack keeps its number."""
    local.up(CPUS="1")
    assert local.record().wanted.cpus == 1
    local.up()
    assert local.record().wanted.cpus == 1


@pytest.mark.parametrize("cpus", ["0.5", "1.5", "1000"])
def test_unavailable_cpus_are_refused(local: Local, cpus: str) -> None:
    """Fractions of a CPU, and more CPUs than the machine has, are refused before anything starts."""
    expected = f"expected a whole number from 1 to {len(usable_cpus())}; fractions of a CPU need Docker"
    assert local.refused_up(CPUS=cpus) == f"CPUS={cpus!r}: {expected}"
    assert local.events == []


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({}, "CPUS is missing: make resources CPUS=1"),
        ({"CPUS": "0.5"}, "CPUS='0.5': expected a whole number from 1 to "),
        ({"MEMORY": "1G"}, "MEMORY= needs Docker: the local backend has no memory limits"),
        ({"CPUS": "1", "MEMORY": "1G"}, "MEMORY= needs Docker: the local backend has no memory limits"),
    ],
)
def test_resources_refuses_invalid_limits(local: Local, environ: dict[str, str], reason: str) -> None:
    """Missing limits, and limits that the local backend cannot enforce, change nothing."""
    local.up()
    assert local.refused(local.backend(**environ).resources).startswith(reason)
    assert local.events == []


def test_memory_is_refused_by_up(local: Local) -> None:
    """A memory limit, which the local backend cannot enforce, is refused by `make up` too."""
    assert local.refused_up(MEMORY="1G") == "MEMORY= needs Docker: the local backend has no memory limits"
    assert local.events == []


def test_resources_pin_each_replica(local: Local) -> None:
    """Each replica is replaced by one that is pinned to its CPUs."""
    local.up(N="2")
    names = ("replica-1", "replica-2")
    assert local.done(local.backend(CPUS="1").resources) == replaced(*names)
    assert [local.supervisord.programs[name].command[:2] for name in names] == [["taskset", "-c"]] * 2
    assert local.record().wanted.cpus == 1


# --- scale, apply, restart --------------------------------------------------------------------------------------------


def test_scale_up_adds_replicas(local: Local) -> None:
    """New replicas start and become ready; running replicas are not touched."""
    local.up()
    names = ("replica-2", "replica-3")
    added = [f"add {name}" for name in names]
    assert local.done(local.backend(N="3").scale) == [*added, *ready(*names)]
    assert local.record().wanted.replicas == 3


def test_scale_down_removes_the_last_replicas(local: Local) -> None:
    """The replicas with the highest slots are removed, and nothing starts."""
    local.up(N="3")
    events = local.done(local.backend(N="1").scale)
    assert events == ["remove replica-2", "remove replica-3"]
    assert local.record().wanted.replicas == 1


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        ("", "N is missing: make scale N=3 (a whole number from 1 to 8)"),
        ("9", "N='9': expected a whole number from 1 to 8"),
    ],
)
def test_scale_refuses_impossible_counts(local: Local, count: str, reason: str) -> None:
    """A missing number of replicas, or one above the number of slots, changes nothing."""
    local.up(N="2")
    assert local.refused(local.backend(N=count).scale) == reason
    assert local.events == []
    assert local.record().wanted.replicas == 2


def test_failed_scale_removes_what_it_added(local: Local) -> None:
    """If a new replica does not start, the number of replicas is restored."""
    local.up()
    local.supervisord.fail("replica-3", "forkcast: no room\n")
    assert local.refused(local.backend(N="3").scale) == "replica-3 did not start: no room"
    assert local.supervisord.names() == [*SERVICES, "replica-1"]
    assert local.record().wanted.replicas == 1


def test_apply_runs_exactly_the_given_stack(local: Local) -> None:
    """Exactly this stack runs afterwards, without resolving a model or predicting."""
    local.up()
    stack = replace(local.record().wanted, replicas=2, environment={"MAX_PENDING": "4000"})
    events = local.done(local.backend().apply, stack)
    assert events == [
        "add replica-2", "ready replica-2", *replaced("replica-1"),
    ]  # fmt: skip
    assert local.record().wanted == stack


def test_restart_takes_one_replica_at_a_time(local: Local) -> None:
    """Each replica is ready again before the next one stops; Nginx and Locust keep running."""
    local.up(N="2")
    restarts = [
        event for slot in "12" for event in (f"stop replica-{slot}", f"start replica-{slot}", f"ready replica-{slot}")
    ]
    assert local.done(local.backend().restart) == restarts


def test_single_replica_restarts_while_a_second_one_answers(local: Local) -> None:
    """A single replica is restarted while a temporary second one answers."""
    local.up()
    assert local.done(local.backend().restart) == [
        "add replica-2", "ready replica-2",
        "stop replica-1", "start replica-1", "ready replica-1", "remove replica-2",
    ]  # fmt: skip


@pytest.mark.parametrize("replicas", ["1", "2"])
def test_restart_starts_replicas_of_other_code_once(local: Local, replicas: str) -> None:
    """A replica with other code is replaced by one with the checkout's code, and not restarted in addition."""
    local.up(N=replicas)
    local.age("replica-1")
    events = local.done(local.backend().restart)
    assert [event for event in events if event.endswith(" replica-1")][:2] == ["remove replica-1", "add replica-1"]
    assert "start replica-1" not in events
    assert events.index("ready replica-2") < events.index("remove replica-1")


def test_failed_restart_names_the_replica(local: Local) -> None:
    """A replica that does not start again is named with its reason, and later ones are not stopped."""
    local.up(N="2")
    local.supervisord.fail("replica-1", "forkcast: no room\n")
    assert local.refused(local.backend().restart) == "replica-1 did not start: no room"
    assert "stop replica-2" not in local.events


# --- promote ----------------------------------------------------------------------------------------------------------


def test_promotion_without_a_stack_moves_the_alias(local: Local) -> None:
    """Without a running stack only the registry in the options changes."""
    version = local.backend(MLFLOW_TRACKING_URI="http://registry:5000").promote(None, force=True)
    assert version == Version("hills", "2", DIGEST)
    assert local.registrar.calls == [("check", None, None, True), ("accept", {**CANDIDATE, "served_version": None})]
    assert local.registrar.environment["MLFLOW_TRACKING_URI"] == "http://registry:5000"
    assert local.registrar.environment["VAR_DIR"] == str(local.layout.var)
    assert local.events == []
    assert local.client.awaited_versions == []


def test_promotion_refuses_replicas_of_other_code(local: Local) -> None:
    """If a replica runs other code than the checkout, promotion is refused before the registry is queried."""
    local.up(N="2")
    local.age("replica-2")
    assert local.refused(lambda: local.backend().promote("2", force=False)) == code_mismatch("replica-2")
    assert local.registrar.calls == []


def test_promotion_waits_until_every_answer_is_new(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas that serve the version already are not reloaded; the verb waits until all answers come from it."""
    health = {"model": CANDIDATE["copy"], "reloads": 1, "workers": 1, "memory": {"used": None, "limit": None}}
    monkeypatch.setattr(replica_client, "get_json_over_socket", lambda _path, _target: (200, health))
    local.up(N="2")
    assert local.done(lambda: local.backend().promote("2", force=False)) == []
    assert local.registrar.calls == [("check", "2", DIGEST, False), ("accept", {**CANDIDATE, "served_version": "2"})]
    assert local.client.awaited_versions == [(local.record().wanted, Version("hills", "2", DIGEST), OPEN_ACCESS)]


# --- the other verbs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["scale", "resources", "restart", "status", "stats"])
def test_verbs_without_a_running_stack_suggest_make_up(local: Local, verb: str) -> None:
    """Without a running stack, the verbs that need one say how to start it."""
    assert local.refused(getattr(local.backend(N="2", CPUS="1"), verb)) == NOTHING_RUNS
    assert local.events == []


def test_record_without_supervisord_is_no_running_stack(local: Local) -> None:
    """A record without a running supervisord does not count as a running stack."""
    local.up()
    local.supervisord.kill()
    assert local.refused(local.backend(N="2").scale) == NOTHING_RUNS


def test_down_stops_everything_and_keeps_logs(local: Local) -> None:
    """Stopping removes everything but the logs, and may be repeated."""
    local.up()
    local.layout.log("replica-1").write_text("a line\n")
    for _ in range(2):
        assert local.done(local.backend().down) == ["shut down"]
        assert Record.load(local.layout) is None
        assert list(local.layout.run.iterdir()) == []
    assert local.layout.log("replica-1").exists()


def test_status_lists_every_program(local: Local) -> None:
    """Each program of the stack has a line with its state and process id."""
    local.up(N="2")
    rows = {line.split()[0]: line.split()[1:3] for line in local.backend().status()[1:5]}
    pids = {name: str(program.pid) for name, program in local.supervisord.programs.items()}
    assert rows["nginx"] == ["running", pids["nginx"]]
    assert rows["replica-2"] == ["starting", pids["replica-2"]]  # Nothing listens on its socket.


def test_logs_of_an_unknown_service_are_refused(local: Local) -> None:
    """An unknown service is refused, whether or not a stack runs."""
    assert local.refused(local.backend(S="nope").logs).startswith("S='nope': expected one of ")


def test_runs_are_logged_in_the_registry_of_the_stack(local: Local) -> None:
    """The program that logs runs gets the document and the registry of the running stack."""
    local.up(MLFLOW_TRACKING_URI="http://registry:5000")
    local.backend(LANG="C").record("{}")
    ((command, arguments),) = local.ran
    assert command == [sys.executable, "-m", "deploy.models.registry.record"]
    assert arguments["input"] == "{}"
    assert arguments["env"] == {
        "LANG": "C", "MLFLOW_TRACKING_URI": "http://registry:5000", "VAR_DIR": str(local.layout.var),
    }  # fmt: skip


@pytest.mark.parametrize(("stderr", "reason"), [("a traceback\nerror: no room\n", "no room"), ("", "status 3")])
def test_failed_logging_of_runs_is_reported(local: Local, stderr: str, reason: str) -> None:
    """The reason is the last line of the program that logs runs, or its exit status."""
    local.answer = subprocess.CompletedProcess([], 3, "", stderr)
    assert local.refused(lambda: local.backend().record("{}")) == f"no run was logged: {reason}"


@pytest.mark.parametrize("verb", ["train", "compile"])
def test_model_programs_use_the_registry_of_the_stack(local: Local, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and compilation run in the checkout with the registry of the running stack."""
    started: list[tuple[str, list[str], dict[str, str], str]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append((*arguments, os.getcwd())))  # noqa: PTH109
    local.up(MLFLOW_TRACKING_URI="http://registry:5000", MODEL_URI="models:/hills/1")
    getattr(local.backend(MODEL_URI="models:/hills/2"), verb)()
    ((program, arguments, environment, folder),) = started
    assert program == sys.executable
    assert arguments[2].startswith(f"deploy.models.{verb if verb == 'compile' else 'training'}.")
    assert folder == str(ROOT)
    assert environment == {
        "MLFLOW_TRACKING_URI": "http://registry:5000", "MODEL_URI": "models:/hills/2",
        "VAR_DIR": str(local.layout.var),
    }  # fmt: skip


# --- the stack's own registry -----------------------------------------------------------------------------------------


def test_registry_starts_before_the_model_is_resolved(local: Local) -> None:
    """MLflow answers before the model is resolved, and a default model may be trained into it."""
    address = f"http://127.0.0.1:{local.ports['MLFLOW_PORT']}"
    assert local.up(full=True) == [
        "stop leftovers", "start supervisord", "add mlflow", "ready mlflow", "model", "add replica-1",
        "ready replica-1", *ADDED_SERVICES, "predict",
    ]  # fmt: skip
    assert local.environments("MLFLOW_TRACKING_URI") == [address]
    assert local.models[-1].own_registry == local.models[-1].settings.tracking_uri == address


def test_registry_starts_beside_a_running_stack(local: Local) -> None:
    """MLflow starts while replicas run; then they are replaced so that they use it."""
    local.up(N="2")
    events = local.up(full=True)
    names = ("replica-1", "replica-2")
    assert events == ["add mlflow", "ready mlflow", "model", *replaced(*names), "predict"]


def test_failed_registry_start_leaves_nothing(local: Local) -> None:
    """If the registry of a first start fails, its reason is the error and everything stops."""
    local.supervisord.fail("mlflow", "error: DATABASE_URL: access denied\n")
    assert local.refused_up(full=True) == "mlflow did not start: DATABASE_URL: access denied"
    assert local.events == ["stop leftovers", "start supervisord", "add mlflow", "shut down"]
    assert Record.load(local.layout) is None


def test_failed_registry_is_removed_from_a_running_stack(local: Local) -> None:
    """If a registry cannot be added to a running stack, the stack continues without one."""
    local.up()
    previous = local.record()
    local.supervisord.fail("mlflow", "error: no room\n")
    assert local.refused_up(full=True) == "mlflow did not start: no room"
    assert local.events == ["add mlflow", "remove mlflow"]
    assert local.record() == previous


def test_missing_model_removes_the_registry_again(local: Local) -> None:
    """If a registry that was added to a running stack does not have the model, it is removed again."""
    local.up()
    local.missing_model = "there is no such model"
    assert local.refused_up(full=True) == "there is no such model"
    assert local.events == ["add mlflow", "ready mlflow", "model", "remove mlflow"]


def test_registry_that_cannot_restart_is_a_note(local: Local, capsys: pytest.CaptureFixture[str]) -> None:
    """A stack whose registry ended and does not start again continues with the last good copy."""
    local.up(full=True)
    local.supervisord.end("mlflow", "FATAL")
    local.supervisord.fail("mlflow", "error: no room\n")
    events = local.up()
    assert events[:2] == ["start mlflow", "model"]
    assert events[-1] == "predict"
    assert (
        "note: the registry did not start, so the last good copy is served: mlflow did not start: no room\n"
        in capsys.readouterr().out
    )


def test_own_registry_and_another_one_are_refused(local: Local) -> None:
    """A stack cannot have its own registry and use another one."""
    error = local.refused_up(full=True, MLFLOW_TRACKING_URI="http://elsewhere:5000")
    assert error.startswith("MLFLOW_TRACKING_URI='http://elsewhere:5000' names another registry than the stack's own")
    assert local.events == []
