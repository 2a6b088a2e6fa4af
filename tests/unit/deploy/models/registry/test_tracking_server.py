"""Tests of the settings and errors of MLflow's server, with a fake S3 client."""

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
    """A boto3 S3 client of a store that has some buckets, or that raises an error."""

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
    ("url", "used_url"),
    [
        ("mysql://u:p@h/n", "mysql+pymysql://u:p@h/n"),
        ("mariadb://u:p@h:3307/n?charset=utf8mb4", "mysql+pymysql://u:p@h:3307/n?charset=utf8mb4"),
        ("postgres://u:p@h/n", "postgresql+psycopg://u:p@h/n"),
        ("postgresql://u:p@h/n", "postgresql+psycopg://u:p@h/n"),
        ("postgresql+psycopg://u:p@h/n", "postgresql+psycopg://u:p@h/n"),
        ("sqlite:////var/mlflow.db", "sqlite:////var/mlflow.db"),
    ],
)
def test_database_urls_use_the_installed_driver(url: str, used_url: str) -> None:
    """A database URL is changed to name the installed driver, whatever scheme the user wrote."""
    options = RegistryOptions.read({"DATABASE_URL": url})
    assert database.database_url(options).render_as_string(hide_password=False) == used_url


def test_own_database_accepts_any_password() -> None:
    """The stack's own database needs only a password, which may contain any characters."""
    url = database.database_url(RegistryOptions.read({"DATABASE_PASSWORD": "p@s/s:#"}))
    assert (url.drivername, url.host, url.database, url.password) == ("mysql+pymysql", "database", "mlflow", "p@s/s:#")


@pytest.mark.parametrize("url", ["mssql://u:hidden@h/n", "hidden", "mysql:/u:hidden@h", "mysql://u:hidden@h:port/n"])
def test_invalid_database_url_is_not_repeated(url: str) -> None:
    """The error for an invalid DATABASE_URL names the variable and hides its value, which may hold a password."""
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: expected mysql://") as caught:
        database.database_url(RegistryOptions.read({"DATABASE_URL": url}))
    assert "hidden" not in str(caught.value)


def test_missing_database_settings_are_named() -> None:
    """Without a database URL or a password, the error names the missing password."""
    with pytest.raises(SettingsError, match=r"^DATABASE_PASSWORD is missing: "):
        database.database_url(RegistryOptions.read({"DATABASE_PASSWORD": ""}))


@pytest.mark.parametrize("url", ["mysql://u:hidden@127.0.0.1:1/n", "postgresql://u:hidden@127.0.0.1:1/n"])
def test_unreachable_database_error_hides_password(url: str) -> None:
    """The error for a database that does not answer is one line, without its password."""
    with pytest.raises(RegistryError, match=r"^the database .*u:\*\*\*@127\.0\.0\.1:1/n: ") as caught:
        database.check_connection(database.database_url(RegistryOptions.read({"DATABASE_URL": url})))
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sqlite_server_stores_artifacts_in_a_folder(tmp_path: Path) -> None:
    """With ARTIFACTS, runs record the folder as their root, so that clients can read them without the server."""
    folder = tmp_path / "var/mlartifacts"
    variables = tracking_server.prepare(
        RegistryOptions.read({"DATABASE_URL": f"sqlite:///{tmp_path}/mlflow.db", "ARTIFACTS": str(folder)})
    )
    assert folder.is_dir()
    assert variables["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert variables["MLFLOW_ARTIFACTS_DESTINATION"] == variables["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == folder.as_uri()
    assert variables["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_missing_bucket_is_created_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing bucket is created once, and MLflow gets its endpoint and key, without a default artifact root."""
    fake = s3(monkeypatch)
    environ = {"DATABASE_URL": f"sqlite:///{tmp_path}/mlflow.db", **STORE}
    for _ in range(2):
        variables = tracking_server.prepare(RegistryOptions.read(environ))
        assert fake.buckets == ["mlflow"]
    assert fake.options == {}
    assert variables["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://mlflow"
    assert "MLFLOW_DEFAULT_ARTIFACT_ROOT" not in variables
    assert variables["MLFLOW_S3_ENDPOINT_URL"] == STORE["S3_ENDPOINT_URL"]
    assert (variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"]) == ("key-id", "very-secret")


def test_bucket_is_created_in_the_configured_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket in a region other than the default one is created with a location constraint."""
    fake = s3(monkeypatch)
    Bucket.of(RegistryOptions.read({**STORE, "S3_BUCKET": "mine", "S3_REGION": "eu-central-1"})).create()
    assert fake.buckets == ["mine"]
    assert fake.options == {"CreateBucketConfiguration": {"LocationConstraint": "eu-central-1"}}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ClientError({"Error": {"Code": "SignatureDoesNotMatch"}}, "ListObjectsV2"), "SignatureDoesNotMatch"),
        (ClientError({"Error": {"Code": "AccessDenied", "Message": "No"}}, "ListObjectsV2"), "AccessDenied No"),
        (EndpointConnectionError(endpoint_url="http://object-store:7480/"), "Could not connect"),
    ],
)
def test_unreachable_store_error_hides_key(monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str) -> None:
    """The error for a store that does not answer or refuses access is one line, without the secret key."""
    s3(monkeypatch, error=error)
    with pytest.raises(
        RegistryError, match=f"^the object store http://object-store:7480, bucket 'mlflow': {reason}"
    ) as caught:
        Bucket.of(RegistryOptions.read(STORE)).create()
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(STORE))
def test_missing_store_settings_are_named(name: str) -> None:
    """The error for a missing setting of the S3 store names the setting."""
    with pytest.raises(SettingsError, match=f"^{name} is missing: "):
        Bucket.of(RegistryOptions.read({**STORE, name: ""}))


@pytest.mark.parametrize("url", ["object-store:7480", "s3://b", "http://", "http://k:hidden@h", "http://[", "ftp://h"])
def test_invalid_store_url_is_not_repeated(url: str) -> None:
    """The error for an invalid S3_ENDPOINT_URL, or one with a key in it, hides the value."""
    with pytest.raises(SettingsError, match=r"^S3_ENDPOINT_URL: expected ") as caught:
        Bucket.of(RegistryOptions.read({**STORE, "S3_ENDPOINT_URL": url}))
    assert "hidden" not in str(caught.value)


def test_server_command_sets_host_port_and_allowed_hosts() -> None:
    """MLflow's command line has the configured address, and all host names by which clients reach the server."""
    arguments = tracking_server.command(
        RegistryOptions.read({"HOST": "0.0.0.0", "PORT": "5001", "ALLOWED_HOSTS": "mlflow.example.com"})  # noqa: S104
    )
    assert arguments[:4] == [sys.executable, "-m", "mlflow", "server"]
    options = dict(zip(arguments[4:-1:2], arguments[5:-1:2], strict=True))
    assert (options["--host"], options["--port"]) == ("0.0.0.0", "5001")  # noqa: S104
    assert options["--allowed-hosts"].split(",") == [*tracking_server.ALLOWED_HOSTS.split(","), "mlflow.example.com"]


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "²"])
def test_invalid_port_is_named_with_its_value(port: str) -> None:
    """The error for an invalid port names the variable and its value."""
    with pytest.raises(CommandError, match=f"^PORT='{port}': expected"):
        RegistryOptions.read({"PORT": port})


def test_failed_start_is_one_line_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A setting from SETTINGS_FILE that fails is one line on standard error, and status 1."""
    file = tmp_path / "mlflow.json"
    file.write_text(json.dumps({"DATABASE_URL": "mysql://u:hidden@127.0.0.1:1/n"}))
    monkeypatch.setenv("SETTINGS_FILE", str(file))
    assert tracking_server.main() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: the database mysql+pymysql://u:***@127.0.0.1:1/n: ")
    assert err.count("\n") == 1


def test_server_gets_its_settings_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is executed with secrets in its environment only, and with the plugin's folder on PYTHONPATH."""
    executed: list[Any] = []
    monkeypatch.setattr("os.execve", lambda *arguments: executed.extend(arguments))
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/secret.db")
    monkeypatch.setenv("ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("PYTHONPATH", "/app:/packages")
    for name in ("SETTINGS_FILE", "HOST", "PORT"):
        monkeypatch.delenv(name, raising=False)
    tracking_server.main()
    program, arguments, environ = executed
    assert program == arguments[0]
    assert "secret" not in " ".join(arguments)
    assert environ["MLFLOW_BACKEND_STORE_URI"].endswith("secret.db")
    plugins, *inherited = environ["PYTHONPATH"].split(":")
    assert inherited == ["/app", "/packages"]
    (entry_points,) = Path(plugins).glob("*.dist-info/entry_points.txt")
    assert "s3 = deploy.models.registry.proxied_s3:ProxiedS3" in entry_points.read_text()
