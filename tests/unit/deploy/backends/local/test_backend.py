"""The verbs on the local backend, on a fake supervisord whose programs answer as soon as they run."""

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
OTHERS = ["add locust", "add log-rotation", "add nginx"]
SERVICES = ["locust", "log-rotation", "nginx"]


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Local:
    """A stack that does not run."""
    monkeypatch.chdir(tmp_path)  # the backend changes into the stack's folder
    return Local(Layout(tmp_path / "var"))


def replaced(*names: str) -> list[str]:
    """Return the events of programs that are replaced one after another, each ready before the next is stopped."""
    return [event for name in names for event in (f"remove {name}", f"add {name}", f"ready {name}")]


def ready(*names: str) -> list[str]:
    return [f"ready {name}" for name in names]


# --- up ---------------------------------------------------------------------------------------------------------------


def test_up_starts_replicas_then_nginx_then_predicts(local: Local) -> None:
    """From nothing, the model is found first, Nginx starts after the replicas, and a prediction ends it."""
    both = ready("replica-1", "replica-2")
    assert local.up(N="2") == [
        "stop leftovers", "model", "start supervisord", "add replica-1", "add replica-2", *both, *OTHERS, "predict",
    ]  # fmt: skip
    assert local.supervisord.names() == [*SERVICES, "replica-1", "replica-2"]
    wanted = local.record().wanted
    assert (wanted.replicas, str(wanted.http_port)) == (2, local.ports["HTTP_PORT"])


def test_up_again_changes_nothing(local: Local) -> None:
    """A second up finds everything as it should be: it waits and predicts, and starts and stops nothing."""
    local.up(N="2")
    before = local.supervisord.info().keys(), local.record()
    assert local.up() == ["model", "predict"]
    assert (local.supervisord.info().keys(), local.record()) == before


def test_changed_setting_replaces_replicas_one_by_one(local: Local) -> None:
    """Each replica is ready with the new setting before the next is stopped; Nginx and Locust stay."""
    local.up(N="3")
    names = ("replica-1", "replica-2", "replica-3")
    assert local.up(MAX_PENDING="4000") == ["model", *replaced(*names), "predict"]
    assert local.environments("MAX_PENDING") == ["4000"] * 3
    assert local.record().wanted.environment == {"MAX_PENDING": "4000"}


def test_other_code_replaces_replicas(local: Local) -> None:
    """Replicas that run other code than the checkout's are replaced, and no others."""
    local.up(N="2")
    local.age("replica-2")
    assert local.up() == ["model", *replaced("replica-2"), "predict"]


COMPANY = ["add replica-2", "ready replica-2", *replaced("replica-1"), "remove replica-2"]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("cause", ["setting", "code"])
def test_lone_replica_gets_company_first(local: Local, cause: str, *, full: bool) -> None:
    """A lone replica is replaced while another one answers, also after MLflow's program has been looked at."""
    local.up(full=full, MAX_PENDING="3000")
    if cause == "code":
        local.age("replica-1")
    happened = local.up(MAX_PENDING="3000" if cause == "code" else "4000")
    assert happened == [*(["ready mlflow"] if full else []), "model", *COMPANY, "predict"]
    assert local.record().wanted.replicas == 1


def test_fewer_replicas_need_no_company(local: Local) -> None:
    """Of several replicas those that are to go answer while the one that stays is replaced."""
    local.up(N="3")
    assert local.up(N="1", MAX_PENDING="4000") == [
        "model", *replaced("replica-1"), "remove replica-2", "remove replica-3", "predict",
    ]  # fmt: skip


@pytest.mark.parametrize("state", ["STOPPING", "STOPPED", "EXITED", "FATAL"])
def test_up_revives_programs_that_ended(local: Local, state: str) -> None:
    """What was stopped, or given up, is started again."""
    local.up()
    local.supervisord.end("replica-1", state)
    local.supervisord.end("nginx", state)
    assert local.up() == ["model", "start replica-1", "start nginx", *ready("replica-1"), "predict"]


def test_replica_that_comes_back_answers_before_another_is_replaced(local: Local) -> None:
    """A replica that was started again is waited for, so that one answers while the other is replaced."""
    local.up(N="2")
    local.supervisord.end("replica-2", "EXITED")
    happened = local.up(MAX_PENDING="4000")
    assert happened.index("ready replica-2") < happened.index("remove replica-1")


def test_up_restarts_replica_without_its_socket(local: Local) -> None:
    """A replica whose socket somebody has deleted cannot be reached, and is restarted."""
    local.up(N="2")
    (local.layout.run / "1.sock").unlink()
    assert local.up() == ["model", "stop replica-1", "start replica-1", "ready replica-1", "predict"]


def test_up_after_supervisord_was_killed_starts_anew(local: Local) -> None:
    """Where supervisord is gone, what it left is stopped, and everything starts with what is asked for now."""
    local.up(N="2")
    local.supervisord.kill()
    assert local.up()[:3] == ["stop leftovers", "model", "start supervisord"]
    assert local.record().wanted.replicas == 1


def test_up_prints_what_should_be_known_of_the_prediction(local: Local, capsys: pytest.CaptureFixture[str]) -> None:
    """An example that a limit kept from being predicted is a note, and the stack runs."""
    local.client.note = "the example request got status 429"
    local.up()
    assert "note: the example request got status 429\n" in capsys.readouterr().out


def test_secrets_stay_out_of_the_programs(local: Local, tmp_path: Path) -> None:
    """Locust's key is in a file of this user alone; supervisord and its programs are not given it."""
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-sixteen-or-more\n")
    keys.chmod(0o600)
    local.up(API_KEYS_FILE=str(keys), API_KEY="a-key-of-sixteen-or-more", S3_BUCKET="models", LANG="C")
    assert local.supervisord.environ.keys() >= {"LANG", "API_KEYS_FILE"}
    assert not local.supervisord.environ.keys() & {"API_KEY", "S3_BUCKET"}
    assert local.layout.client_key.read_text() == "a-key-of-sixteen-or-more"
    assert local.layout.client_key.stat().st_mode & 0o777 == 0o600
    assert "a-key" not in "".join(program.text for program in local.supervisord.programs.values())


def test_key_copy_is_for_this_user_alone(local: Local, tmp_path: Path) -> None:
    """Nginx's copy of the certificate's key can be read by this user alone, whoever may read the original."""
    original = certificates.issue(tmp_path)
    original.key.chmod(0o644)
    local.up(TLS_CERT=str(original.cert), TLS_KEY=str(original.key), HTTPS_PORT=str(free_port()))
    assert local.layout.tls_key.read_bytes() == original.key.read_bytes()
    assert local.layout.tls_key.stat().st_mode & 0o777 == 0o600


# --- an up that fails -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "log", "why"),
    [
        ("replica-2", "a line\nforkcast: the model has no signature\n", "the model has no signature"),
        ("nginx", "nginx: [emerg] bind() failed\n", "nginx: [emerg] bind() failed"),
        ("locust", "", "it printed nothing"),
    ],
)
def test_up_from_nothing_that_fails_leaves_nothing(local: Local, name: str, log: str, why: str) -> None:
    """Whichever program does not start is told with its reason; everything is stopped and forgotten."""
    local.supervisord.fail(name, log)
    assert local.refused_up(N="2") == f"{name} did not start: {why}"
    assert local.events[-1] == "shut down"
    assert Record.load(local.layout) is None
    assert list(local.layout.run.iterdir()) == []


def test_up_whose_example_fails_leaves_nothing(local: Local) -> None:
    """A model that does not predict its own example is not served."""
    local.client.error = CommandError("the model's own example got status 500")
    assert local.refused_up() == "the model's own example got status 500"
    assert local.events[-2:] == ["predict", "shut down"]
    assert Record.load(local.layout) is None


def test_missing_model_starts_nothing(local: Local) -> None:
    """Without a model not even supervisord is started."""
    local.missing_model = "there is no such model"
    assert local.refused_up() == "there is no such model"
    assert local.events == ["stop leftovers", "model", "shut down"]


def test_supervisord_that_does_not_start_is_the_reason(local: Local) -> None:
    """Where supervisord does not start, its reason is told, and nothing is remembered."""
    local.supervisord.cannot_start = "supervisord did not start: no room"
    assert local.refused_up() == "supervisord did not start: no room"
    assert Record.load(local.layout) is None


def test_configuration_that_nginx_refuses_changes_nothing(local: Local, tmp_path: Path) -> None:
    """Nginx's own reason is told before any program is touched."""
    local.up()
    script = tmp_path / "nginx"
    script.write_text("#!/bin/sh\necho 'nginx: [emerg] too many names' >&2\nexit 1\n")
    script.chmod(0o755)
    local.nginx = str(script)
    assert local.refused_up(N="2") == "nginx refuses its configuration: nginx: [emerg] too many names"
    assert local.events == ["model"]


def test_missing_nginx_starts_nothing(local: Local) -> None:
    """Nginx is looked for before the model is."""
    local.nginx = ""
    assert local.refused_up() == "nginx is missing"
    assert local.events == ["stop leftovers"]


def test_used_port_starts_nothing(local: Local) -> None:
    """A port of another program is told with its variable, before anything starts."""
    with port_in_use() as port:
        local.ports["LOCUST_PORT"] = str(port)
        assert local.refused_up() == f"port {port} is in use by another program; choose another with LOCUST_PORT="
    assert local.events == ["stop leftovers"]


def test_equal_ports_are_refused(local: Local) -> None:
    """Nginx and Locust are not to share a port."""
    local.ports["LOCUST_PORT"] = port = local.ports["HTTP_PORT"]
    assert local.refused_up() == f"LOCUST_PORT={port}: expected another port, since HTTP_PORT is {port} too"
    assert local.events == ["stop leftovers"]


@pytest.mark.parametrize("replicas", ["1", "2"])
def test_failed_change_restores_what_ran(local: Local, replicas: str) -> None:
    """Where a replica does not start with the new setting, all serve with the old one again."""
    local.up(N=replicas)
    before = local.record()
    local.supervisord.fail("replica-2", "forkcast: no room\n", having="MAX_PENDING=4000")
    assert local.refused_up(MAX_PENDING="4000") == "replica-2 did not start: no room"
    assert local.environments("MAX_PENDING") == [None] * int(replicas)
    assert all(local.supervisord.programs[f"replica-{slot}"].pid for slot in range(1, int(replicas) + 1))
    assert local.record() == before
    assert "shut down" not in local.events


def test_lone_replica_is_never_stopped_for_company_that_fails(local: Local) -> None:
    """A lone replica runs on where the one that was to keep it company does not start."""
    local.up()
    pid = local.supervisord.programs["replica-1"].pid
    local.supervisord.fail("replica-2", having="MAX_PENDING=4000")
    local.refused_up(MAX_PENDING="4000")
    assert local.events == ["model", "add replica-2", "remove replica-2"]
    assert local.supervisord.programs["replica-1"].pid == pid


def test_lone_replica_gets_company_while_a_change_is_taken_back(local: Local) -> None:
    """A change whose example fails is taken back as it was made: with a second replica that answers."""
    local.up()
    local.client.error = CommandError("the model's own example got status 500")
    local.refused_up(MAX_PENDING="4000")
    assert local.events == ["model", *COMPANY, "predict", *COMPANY]
    assert local.environments("MAX_PENDING") == [None]


def test_restored_programs_that_fail_do_not_hide_the_first_error(local: Local) -> None:
    """What went wrong first is told, where what ran before does not come up again either."""
    local.up(N="2", MAX_PENDING="3000")
    local.supervisord.fail("replica-1", "forkcast: no room\n", having="MAX_PENDING=3000")
    local.client.error = CommandError("the model's own example got status 500")
    assert local.refused_up(MAX_PENDING="4000") == "the model's own example got status 500"
    assert local.events[-2:] == ["remove replica-1", "add replica-1"]


@pytest.mark.parametrize("cleanup", [CommandError("supervisord does not answer"), OSError("the disk is full")])
def test_first_error_is_told_though_the_cleanup_fails(
    local: Local, monkeypatch: pytest.MonkeyPatch, cleanup: Exception
) -> None:
    """What went wrong first is the reason, whatever goes wrong while it is undone."""

    def fail(*_arguments: object) -> None:
        raise cleanup

    backend = local.backend()
    monkeypatch.setattr(backend, "down", fail)
    monkeypatch.setattr(backend, "_converge", fail)
    for before in (None, Record(Stack())):
        with pytest.raises(CommandError, match=r"^the first error$"), backend._stack_restored_on_failure(before):
            raise CommandError("the first error")


# --- limits -----------------------------------------------------------------------------------------------------------


def test_up_takes_cpus_as_resources_does(local: Local) -> None:
    """A whole number of CPUS is what each replica is held to; without one, the stack keeps what it has."""
    local.up(CPUS="1")
    assert local.record().wanted.cpus == 1
    local.up()
    assert local.record().wanted.cpus == 1


@pytest.mark.parametrize("cpus", ["0.5", "1.5", "1000"])
def test_cpus_that_cannot_be_had_are_refused(local: Local, cpus: str) -> None:
    """Dependencies of a CPU, and more than there are, are refused by up before anything is started."""
    expected = f"expected a whole number from 1 to {len(usable_cpus())}; fractions of a CPU need Docker"
    assert local.refused_up(CPUS=cpus) == f"CPUS={cpus!r}: {expected}"
    assert local.events == []


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({}, "CPUS is missing: make resources CPUS=1"),
        ({"CPUS": "0.5"}, "CPUS='0.5': expected a whole number from 1 to "),
        ({"MEMORY": "1G"}, "MEMORY= needs Docker: the local backend has no memory limits"),
        ({"CPUS": "1", "MEMORY": "1G"}, "MEMORY= needs Docker: the local backend has no memory limits"),
    ],
)
def test_resources_are_refused(local: Local, environ: dict[str, str], why: str) -> None:
    """Limits that are missing, or that the local backend cannot hold, change nothing."""
    local.up()
    assert local.refused(local.backend(**environ).resources).startswith(why)
    assert local.events == []


def test_memory_is_refused_by_up(local: Local) -> None:
    """A limit of memory, which the local backend cannot hold, is refused by up too."""
    assert local.refused_up(MEMORY="1G") == "MEMORY= needs Docker: the local backend has no memory limits"
    assert local.events == []


def test_resources_pin_each_replica(local: Local) -> None:
    """Each replica is replaced by one that is held to its CPUs."""
    local.up(N="2")
    names = ("replica-1", "replica-2")
    assert local.done(local.backend(CPUS="1").resources) == replaced(*names)
    assert [local.supervisord.programs[name].command[:2] for name in names] == [["taskset", "-c"]] * 2
    assert local.record().wanted.cpus == 1


# --- scale, become, restart -------------------------------------------------------------------------------------------


def test_scale_up_adds_replicas(local: Local) -> None:
    """New replicas are ready before anything else happens; those that run stay."""
    local.up()
    names = ("replica-2", "replica-3")
    added = [f"add {name}" for name in names]
    assert local.done(local.backend(N="3").scale) == [*added, *ready(*names)]
    assert local.record().wanted.replicas == 3


def test_scale_down_removes_the_last_replicas(local: Local) -> None:
    """The replicas of the highest slots go, and nothing is started."""
    local.up(N="3")
    happened = local.done(local.backend(N="1").scale)
    assert happened == ["remove replica-2", "remove replica-3"]
    assert local.record().wanted.replicas == 1


@pytest.mark.parametrize(
    ("count", "why"),
    [
        ("", "N is missing: make scale N=3 (a whole number from 1 to 8)"),
        ("9", "N='9': expected a whole number from 1 to 8"),
    ],
)
def test_scale_refuses_impossible_counts(local: Local, count: str, why: str) -> None:
    """A number of replicas that is missing, or that there are no slots for, changes nothing."""
    local.up(N="2")
    assert local.refused(local.backend(N=count).scale) == why
    assert local.events == []
    assert local.record().wanted.replicas == 2


def test_failed_scale_removes_what_it_added(local: Local) -> None:
    """Where a new replica does not start, the number of replicas is what it was."""
    local.up()
    local.supervisord.fail("replica-3", "forkcast: no room\n")
    assert local.refused(local.backend(N="3").scale) == "replica-3 did not start: no room"
    assert local.supervisord.names() == [*SERVICES, "replica-1"]
    assert local.record().wanted.replicas == 1


def test_apply_runs_exactly_the_given_stack(local: Local) -> None:
    """The given stack runs with its number of replicas and settings; no model is looked for and nothing predicted."""
    local.up()
    stack = replace(local.record().wanted, replicas=2, environment={"MAX_PENDING": "4000"})
    happened = local.done(local.backend().apply, stack)
    assert happened == [
        "add replica-2", "ready replica-2", *replaced("replica-1"),
    ]  # fmt: skip
    assert local.record().wanted == stack


def test_restart_takes_one_replica_at_a_time(local: Local) -> None:
    """Each replica is ready again before the next is stopped; Nginx and Locust stay."""
    local.up(N="2")
    one_by_one = [
        event for slot in "12" for event in (f"stop replica-{slot}", f"start replica-{slot}", f"ready replica-{slot}")
    ]
    assert local.done(local.backend().restart) == one_by_one


def test_restarted_lone_replica_gets_company(local: Local) -> None:
    """A lone replica is restarted while another one answers."""
    local.up()
    assert local.done(local.backend().restart) == [
        "add replica-2", "ready replica-2",
        "stop replica-1", "start replica-1", "ready replica-1", "remove replica-2",
    ]  # fmt: skip


@pytest.mark.parametrize("replicas", ["1", "2"])
def test_restart_starts_replicas_of_other_code_once(local: Local, replicas: str) -> None:
    """A replica that runs other code is replaced by one of the checkout's, and not restarted besides."""
    local.up(N=replicas)
    local.age("replica-1")
    happened = local.done(local.backend().restart)
    assert [event for event in happened if event.endswith(" replica-1")][:2] == ["remove replica-1", "add replica-1"]
    assert "start replica-1" not in happened
    assert happened.index("ready replica-2") < happened.index("remove replica-1")


def test_restart_that_fails_tells_which_replica(local: Local) -> None:
    """A replica that does not come up again is told with its reason, and those after it are not stopped."""
    local.up(N="2")
    local.supervisord.fail("replica-1", "forkcast: no room\n")
    assert local.refused(local.backend().restart) == "replica-1 did not start: no room"
    assert "stop replica-2" not in local.events


# --- promote ----------------------------------------------------------------------------------------------------------


def test_promotion_without_a_stack_moves_the_alias(local: Local) -> None:
    """Where nothing runs, the registry changes alone: the one that the options name."""
    version = local.backend(MLFLOW_TRACKING_URI="http://registry:5000").promote(None, force=True)
    assert version == Version("hills", "2", DIGEST)
    assert local.registrar.calls == [("check", None, None, True), ("accept", CANDIDATE)]
    assert local.registrar.environment["MLFLOW_TRACKING_URI"] == "http://registry:5000"
    assert local.registrar.environment["VAR_DIR"] == str(local.layout.var)
    assert local.events == []
    assert local.client.awaited_versions == []


def test_promotion_refuses_replicas_of_other_code(local: Local) -> None:
    """A replica that runs other code cannot reload it, so that the registry is not even asked."""
    local.up(N="2")
    local.age("replica-2")
    assert local.refused(lambda: local.backend().promote("2", force=False)) == code_mismatch("replica-2")
    assert local.registrar.calls == []


def test_promotion_waits_until_every_answer_is_new(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas that serve the version already are not told to reload; the verb ends when all answers are of it."""
    health = {"model": CANDIDATE["copy"], "reloads": 1, "workers": 1, "memory": {"used": None, "limit": None}}
    monkeypatch.setattr(replica_client, "get_json_over_socket", lambda _path, _target: (200, health))
    local.up(N="2")
    assert local.done(lambda: local.backend().promote("2", force=False)) == []
    assert local.registrar.calls == [("check", "2", DIGEST, False), ("accept", CANDIDATE)]
    assert local.client.awaited_versions == [(local.record().wanted, Version("hills", "2", DIGEST), OPEN_ACCESS)]


# --- the other verbs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["scale", "resources", "restart", "status", "stats"])
def test_verbs_without_a_running_stack_suggest_make_up(local: Local, verb: str) -> None:
    """Where nothing runs, those who look at it or change it say how to start it."""
    assert local.refused(getattr(local.backend(N="2", CPUS="1"), verb)) == NOTHING_RUNS
    assert local.events == []


def test_record_without_supervisord_is_no_running_stack(local: Local) -> None:
    """A record that outlived its supervisord counts for nothing."""
    local.up()
    local.supervisord.kill()
    assert local.refused(local.backend(N="2").scale) == NOTHING_RUNS


def test_down_stops_everything_and_forgets(local: Local) -> None:
    """Nothing of the run stays, the logs do; done again, it does no harm."""
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
    assert rows["replica-2"] == ["starting", pids["replica-2"]]  # nobody listens on its socket


def test_logs_of_an_unknown_service_are_refused(local: Local) -> None:
    """The service that S names is one of those that there are, whether or not a stack runs."""
    assert local.refused(local.backend(S="nope").logs).startswith("S='nope': expected one of ")


def test_runs_are_logged_in_the_registry_of_the_stack(local: Local) -> None:
    """The document goes to the program that logs runs, which is told the registry of the stack that runs."""
    local.up(MLFLOW_TRACKING_URI="http://registry:5000")
    local.backend(LANG="C").record("{}")
    ((command, arguments),) = local.ran
    assert command == [sys.executable, "-m", "deploy.models.registry.record"]
    assert arguments["input"] == "{}"
    assert arguments["env"] == {
        "LANG": "C", "MLFLOW_TRACKING_URI": "http://registry:5000", "VAR_DIR": str(local.layout.var),
    }  # fmt: skip


@pytest.mark.parametrize(("stderr", "why"), [("a traceback\nerror: no room\n", "no room"), ("", "status 3")])
def test_runs_that_are_not_logged_are_told(local: Local, stderr: str, why: str) -> None:
    """The reason is the program's last line, or its status."""
    local.answer = subprocess.CompletedProcess([], 3, "", stderr)
    assert local.refused(lambda: local.backend().record("{}")) == f"no run was logged: {why}"


@pytest.mark.parametrize("verb", ["train", "compile"])
def test_programs_of_models_work_on_the_stack(local: Local, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer and the compiler run in the checkout, on the registry of the stack that runs."""
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


# --- a registry of its own --------------------------------------------------------------------------------------------


def test_registry_starts_before_the_model_is_looked_for(local: Local) -> None:
    """MLflow answers before the model is looked for in it, and the trainer knows that it may train into it."""
    address = f"http://127.0.0.1:{local.ports['MLFLOW_PORT']}"
    assert local.up(full=True) == [
        "stop leftovers", "start supervisord", "add mlflow", "ready mlflow", "model", "add replica-1",
        "ready replica-1", *OTHERS, "predict",
    ]  # fmt: skip
    assert local.environments("MLFLOW_TRACKING_URI") == [address]
    assert local.models[-1].own_registry == local.models[-1].settings.tracking_uri == address


def test_registry_joins_a_running_stack(local: Local) -> None:
    """MLflow starts beside replicas that run; they are replaced afterwards, as they are to use it."""
    local.up(N="2")
    happened = local.up(full=True)
    names = ("replica-1", "replica-2")
    assert happened == ["add mlflow", "ready mlflow", "model", *replaced(*names), "predict"]


def test_registry_that_does_not_start_leaves_nothing(local: Local) -> None:
    """A registry that does not start from nothing is told with its reason, and everything is stopped."""
    local.supervisord.fail("mlflow", "error: DATABASE_URL: access denied\n")
    assert local.refused_up(full=True) == "mlflow did not start: DATABASE_URL: access denied"
    assert local.events == ["stop leftovers", "start supervisord", "add mlflow", "shut down"]
    assert Record.load(local.layout) is None


def test_registry_that_fails_beside_a_plain_stack_is_removed(local: Local) -> None:
    """A running stack that was to get a registry, which does not start, goes on without one."""
    local.up()
    before = local.record()
    local.supervisord.fail("mlflow", "error: no room\n")
    assert local.refused_up(full=True) == "mlflow did not start: no room"
    assert local.events == ["add mlflow", "remove mlflow"]
    assert local.record() == before


def test_missing_model_removes_the_registry_again(local: Local) -> None:
    """A running stack that was to get a registry, which lacks the model, goes on as it was."""
    local.up()
    local.missing_model = "there is no such model"
    assert local.refused_up(full=True) == "there is no such model"
    assert local.events == ["add mlflow", "ready mlflow", "model", "remove mlflow"]


def test_failing_registry_of_a_running_stack_is_a_note(local: Local, capsys: pytest.CaptureFixture[str]) -> None:
    """A stack whose registry has ended, and does not start again, goes on with the last good copy."""
    local.up(full=True)
    local.supervisord.end("mlflow", "FATAL")
    local.supervisord.fail("mlflow", "error: no room\n")
    happened = local.up()
    assert happened[:2] == ["start mlflow", "model"]
    assert happened[-1] == "predict"
    assert (
        "note: the registry did not start, so the last good copy is served: mlflow did not start: no room\n"
        in capsys.readouterr().out
    )


def test_registry_of_somebody_else_is_refused(local: Local) -> None:
    """A registry of the stack's own, and another one, are not both to be had."""
    told = local.refused_up(full=True, MLFLOW_TRACKING_URI="http://elsewhere:5000")
    assert told.startswith("MLFLOW_TRACKING_URI='http://elsewhere:5000' names another registry than the stack's own")
    assert local.events == []
