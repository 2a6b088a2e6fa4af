"""The S3 bucket that stores the registry's artifacts, created if it is missing."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deploy.options import RegistryOptions
from server.errors import RegistryError, SettingsError

DEFAULT_REGION = "us-east-1"
_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of an S3 store, and the access key for it."""

    endpoint: str
    name: str
    key_id: str
    secret: str
    region: str

    @classmethod
    def of(cls, options: RegistryOptions) -> Bucket:
        """Return the bucket that the options name.

        Raises:
            SettingsError: a setting is missing, or the endpoint is not a URL.
        """
        endpoint, key_id, secret = options.s3_endpoint_url, options.s3_access_key_id, options.s3_secret_access_key
        required = {"S3_ENDPOINT_URL": endpoint, "S3_ACCESS_KEY_ID": key_id, "S3_SECRET_ACCESS_KEY": secret}
        for name, value in required.items():
            if not value:
                raise SettingsError(f"{name} is missing: set it in .env, or let make up-full fill it in")
        if not is_http_url(endpoint):
            raise SettingsError("S3_ENDPOINT_URL: expected a URL such as https://s3.example.com, without a key in it")
        return cls(endpoint, options.s3_bucket, key_id, secret, options.s3_region)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that MLflow's S3 client reads."""
        return {
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": self.region,
            # By default boto3 uses checksums that not every S3 store implements.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def create(self) -> None:
        """Create the bucket unless it exists.

        Raises:
            RegistryError: the store does not answer, or refuses access.
        """
        try:
            self._create()
        except (ClientError, BotoCoreError, ValueError) as error:
            raise RegistryError(f"the object store {self.endpoint}, bucket {self.name!r}: {_reason(error)}") from None

    def _create(self) -> None:
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret,
            region_name=self.region,
            config=Config(
                s3={"addressing_style": "path"},
                connect_timeout=_TIMEOUT_SECONDS,
                read_timeout=_TIMEOUT_SECONDS,
                retries={"total_max_attempts": 2},
            ),
        )
        try:
            # A HEAD request would be cheaper, but its answer to a wrong key has no body that names the reason.
            client.list_objects_v2(Bucket=self.name, MaxKeys=1)
        except client.exceptions.NoSuchBucket:
            # S3 requires the region again in the body, except for the default region, where it refuses it.
            constraint = {} if self.region == DEFAULT_REGION else {"LocationConstraint": self.region}
            client.create_bucket(Bucket=self.name, **({"CreateBucketConfiguration": constraint} if constraint else {}))


def is_http_url(url: str) -> bool:
    """Return whether the text is an HTTP or HTTPS URL without credentials in it."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False


def _reason(error: BaseException) -> str:
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        return " ".join(filter(None, [details.get("Code"), details.get("Message")])) or str(error)
    return str(error).splitlines()[0]
