"""What MLflow's server is started with, and why it is not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from deploy.errors import CommandError
from deploy.models.registry import database, tracking_server
from deploy.models.registry.bucket import Bucket
from deploy.options import RegistryOptions
from server.errors import RegistryError, SettingsError

STORE = {
    "S3_ENDPOINT_URL": "http://object-store:7480",
    "S3_ACCESS_KEY_ID": "key-id",
    "S3_SECRET_ACCESS_KEY": "very-secret",
}


class FakeS3:
    """A client of a store with some buckets, or that fails."""

    exceptions = SimpleNamespace(NoSuchBucket=type("NoSuchBucket", (Exception,), {}))

    def __init__(self, buckets: list[str], error: Exception | None = None) -> None:
        self.buckets = buckets
        self.error = error
        self.options: dict[str, Any] = {}

    def list_objects_v2(self, Bucket: str, MaxKeys: int) -> None:  # noqa: N803
        if self.error:
            raise self.error
        if Bucket not in self.buckets:
            raise self.exceptions.NoSuchBucket

    def create_bucket(self, Bucket: str, **options: Any) -> None:  # noqa: N803
        self.buckets.append(Bucket)
        self.options = options


def s3(monkeypatch: pytest.MonkeyPatch, *buckets: str, error: Exception | None = None) -> FakeS3:
    fake = FakeS3(list(buckets), error)
    monkeypatch.setattr(boto3, "client", lambda *_arguments, **_options: fake)
    return fake


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("mysql://u:p@h/n", "mysql+pymysql://u:p@h/n"),
        ("mariadb://u:p@h:3307/n?charset=utf8mb4", "mysql+pymysql://u:p@h:3307/n?charset=utf8mb4"),
        ("postgres://u:p@h/n", "postgresql+psycopg://u:p@h/n"),
        ("postgresql://u:p@h/n", "postgresql+psycopg://u:p@h/n"),
        ("postgresql+psycopg://u:p@h/n", "postgresql+psycopg://u:p@h/n"),
        ("sqlite:////var/mlflow.db", "sqlite:////var/mlflow.db"),
    ],
)
def test_database_urls_use_the_installed_driver(given: str, used: str) -> None:
    """A database is reached by the driver that is here, whatever its address calls it."""
    assert database.address(RegistryOptions.read({"DATABASE_URL": given})).render_as_string(hide_password=False) == used


def test_own_database_accepts_any_password() -> None:
    """The stack's own database needs a password alone, which may have any character."""
    url = database.address(RegistryOptions.read({"DATABASE_PASSWORD": "p@s/s:#"}))
    assert (url.drivername, url.host, url.database, url.password) == ("mysql+pymysql", "database", "mlflow", "p@s/s:#")


@pytest.mark.parametrize("given", ["mssql://u:hidden@h/n", "hidden", "mysql:/u:hidden@h", "mysql://u:hidden@h:port/n"])
def test_bad_address_of_a_database(given: str) -> None:
    """An address that is none is refused by its name, and is not repeated: it may hold a password."""
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: expected mysql://") as caught:
        database.address(RegistryOptions.read({"DATABASE_URL": given}))
    assert "hidden" not in str(caught.value)


def test_missing_database_settings_are_named() -> None:
    """Without any database, what is missing is named."""
    with pytest.raises(SettingsError, match=r"^DATABASE_PASSWORD is missing: "):
        database.address(RegistryOptions.read({"DATABASE_PASSWORD": ""}))


@pytest.mark.parametrize("given", ["mysql://u:hidden@127.0.0.1:1/n", "postgresql://u:hidden@127.0.0.1:1/n"])
def test_unreachable_database_error_hides_password(given: str) -> None:
    """A database that does not answer is told in one line, without its password."""
    with pytest.raises(RegistryError, match=r"^the database .*u:\*\*\*@127\.0\.0\.1:1/n: ") as caught:
        database.check(database.address(RegistryOptions.read({"DATABASE_URL": given})))
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sqlite_server_stores_artifacts_in_a_folder(tmp_path: Path) -> None:
    """On SQLite and a folder, artifacts have their own place, so that the database can be read without the server."""
    folder = tmp_path / "var/mlartifacts"
    told = tracking_server.prepare(
        RegistryOptions.read({"DATABASE_URL": f"sqlite:///{tmp_path}/mlflow.db", "ARTIFACTS": str(folder)})
    )
    assert folder.is_dir()
    assert told["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert told["MLFLOW_ARTIFACTS_DESTINATION"] == told["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == folder.as_uri()
    assert told["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_bucket_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket that is missing is made, once, and MLflow is told the way and the key to it, and of no other root."""
    fake = s3(monkeypatch)
    environ = {"DATABASE_URL": f"sqlite:///{tmp_path}/mlflow.db", **STORE}
    for _ in range(2):
        told = tracking_server.prepare(RegistryOptions.read(environ))
        assert fake.buckets == ["mlflow"]
    assert fake.options == {}
    assert told["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://mlflow"
    assert "MLFLOW_DEFAULT_ARTIFACT_ROOT" not in told
    assert told["MLFLOW_S3_ENDPOINT_URL"] == STORE["S3_ENDPOINT_URL"]
    assert (told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"]) == ("key-id", "very-secret")


def test_bucket_in_another_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket is made in the region that is asked for."""
    fake = s3(monkeypatch)
    Bucket.of(RegistryOptions.read({**STORE, "S3_BUCKET": "mine", "S3_REGION": "eu-central-1"})).make()
    assert fake.buckets == ["mine"]
    assert fake.options == {"CreateBucketConfiguration": {"LocationConstraint": "eu-central-1"}}


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ClientError({"Error": {"Code": "SignatureDoesNotMatch"}}, "ListObjectsV2"), "SignatureDoesNotMatch"),
        (ClientError({"Error": {"Code": "AccessDenied", "Message": "No"}}, "ListObjectsV2"), "AccessDenied No"),
        (EndpointConnectionError(endpoint_url="http://object-store:7480/"), "Could not connect"),
    ],
)
def test_unreachable_store_error_hides_key(monkeypatch: pytest.MonkeyPatch, error: Exception, why: str) -> None:
    """A store that does not answer, or does not let us, is told in one line, without the key."""
    s3(monkeypatch, error=error)
    with pytest.raises(
        RegistryError, match=f"^the object store http://object-store:7480, bucket 'mlflow': {why}"
    ) as caught:
        Bucket.of(RegistryOptions.read(STORE)).make()
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(STORE))
def test_missing_store_settings_are_named(name: str) -> None:
    """What is missing of a store is named."""
    with pytest.raises(SettingsError, match=f"^{name} is missing: "):
        Bucket.of(RegistryOptions.read({**STORE, name: ""}))


@pytest.mark.parametrize("url", ["object-store:7480", "s3://b", "http://", "http://k:hidden@h", "http://[", "ftp://h"])
def test_bad_address_of_a_store(url: str) -> None:
    """An address that is none, or that holds a key, is refused and not repeated."""
    with pytest.raises(SettingsError, match=r"^S3_ENDPOINT_URL: expected ") as caught:
        Bucket.of(RegistryOptions.read({**STORE, "S3_ENDPOINT_URL": url}))
    assert "hidden" not in str(caught.value)


def test_server_command_sets_host_port_and_allowed_hosts() -> None:
    """MLflow's server listens where it is told to, for those names that clients have for it."""
    line = tracking_server.command(
        RegistryOptions.read({"HOST": "0.0.0.0", "PORT": "5001", "ALLOWED_HOSTS": "mlflow.example.com"})  # noqa: S104
    )
    assert line[:4] == [sys.executable, "-m", "mlflow", "server"]
    options = dict(zip(line[4:-1:2], line[5:-1:2], strict=True))
    assert (options["--host"], options["--port"]) == ("0.0.0.0", "5001")  # noqa: S104
    assert options["--allowed-hosts"].split(",") == [*tracking_server.ALLOWED_HOSTS.split(","), "mlflow.example.com"]


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "²"])
def test_invalid_port_is_named_with_its_value(port: str) -> None:
    """A port that cannot be is named with its value."""
    with pytest.raises(CommandError, match=f"^PORT='{port}': expected"):
        RegistryOptions.read({"PORT": port})


def test_main_tells_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong, with what the file of settings says too, is one line on standard error, and the status 1."""
    file = tmp_path / "mlflow.json"
    file.write_text(json.dumps({"DATABASE_URL": "mysql://u:hidden@127.0.0.1:1/n"}))
    monkeypatch.setenv("SETTINGS_FILE", str(file))
    assert tracking_server.main() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: the database mysql+pymysql://u:***@127.0.0.1:1/n: ")
    assert err.count("\n") == 1


def test_main_becomes_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is told its settings by the environment, with the folder in which it finds our plugin, and no more."""
    became: list[Any] = []
    monkeypatch.setattr("os.execve", lambda *arguments: became.extend(arguments))
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/secret.db")
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("PYTHONPATH", "/app:/packages")
    for name in ("SETTINGS_FILE", "HOST", "PORT"):
        monkeypatch.delenv(name, raising=False)
    tracking_server.main()
    program, line, environ = became
    assert program == line[0]
    assert "secret" not in " ".join(line)
    assert environ["MLFLOW_BACKEND_STORE_URI"].endswith("secret.db")
    first, *rest = environ["PYTHONPATH"].split(":")
    assert rest == ["/app", "/packages"]
    (told,) = Path(first).glob("*.dist-info/entry_points.txt")
    assert "s3 = deploy.models.registry.proxied_s3:ProxiedS3" in told.read_text()
