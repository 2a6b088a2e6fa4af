"""The registry's object store: an S3 bucket of whoever keeps it, made where it is missing."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deploy.options import RegistryOptions
from server.errors import RegistryError, SettingsError

DEFAULT_REGION = "us-east-1"
_TIMEOUT = 10


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where artifacts go, and the key that opens it."""

    endpoint: str
    name: str
    key_id: str
    secret: str
    region: str

    @classmethod
    def of(cls, options: RegistryOptions) -> Bucket:
        """Return the bucket that the options name.

        Raises:
            SettingsError: naming what is missing, or no address.
        """
        endpoint, key_id, secret = options.s3_endpoint_url, options.s3_access_key_id, options.s3_secret_access_key
        needed = {"S3_ENDPOINT_URL": endpoint, "S3_ACCESS_KEY_ID": key_id, "S3_SECRET_ACCESS_KEY": secret}
        for name, value in needed.items():
            if not value:
                raise SettingsError(f"{name} is missing: make up-full fills it in, or names it in .env")
        if not is_address(endpoint):
            raise SettingsError("S3_ENDPOINT_URL: expected an address as https://s3.example.com, without a key in it")
        return cls(endpoint, options.s3_bucket, key_id, secret, options.s3_region)

    @property
    def environment(self) -> dict[str, str]:
        """What MLflow's S3 client reads."""
        return {
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": self.region,
            # Checksums that not every S3 store knows.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def make(self) -> None:
        """Make it, unless it is there.

        Raises:
            RegistryError: the store does not answer, or does not let us.
        """
        try:
            self._make()
        except (ClientError, BotoCoreError, ValueError) as error:
            raise RegistryError(f"the object store {self.endpoint}, bucket {self.name!r}: {_why(error)}") from None

    def _make(self) -> None:
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret,
            region_name=self.region,
            config=Config(
                s3={"addressing_style": "path"},
                connect_timeout=_TIMEOUT,
                read_timeout=_TIMEOUT,
                retries={"total_max_attempts": 2},
            ),
        )
        try:
            # Not HEAD, whose answer has no words for a wrong key.
            client.list_objects_v2(Bucket=self.name, MaxKeys=1)
        except client.exceptions.NoSuchBucket:
            # Every region but the first has to be told again.
            elsewhere = {} if self.region == DEFAULT_REGION else {"LocationConstraint": self.region}
            client.create_bucket(Bucket=self.name, **({"CreateBucketConfiguration": elsewhere} if elsewhere else {}))


def is_address(url: str) -> bool:
    """Whether this is an address by HTTP, with no password in it."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False


def _why(error: BaseException) -> str:
    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        return " ".join(filter(None, [told.get("Code"), told.get("Message")])) or str(error)
    return str(error).splitlines()[0]
