"""Variables that only programs below the command line read: replicas, the registry, and the scaling lab.

Those of the command line are the fields of the classes in :mod:`deploy.options`.
"""

from __future__ import annotations

from deploy.variable_types import OneOf, Text, Variable, WholeNumber
from server.settings import ENGINES, LOG_LEVELS


def _replica(name: str, type_: WholeNumber | OneOf, default: str, meaning: str, *more: str) -> Variable:
    return Variable(name, type_, default, meaning, services=("server", *more), persistent=True)


# Read by server/settings.py, which also checks them.
REPLICA_VARIABLES = (
    _replica("WEB_CONCURRENCY", WholeNumber(1, 1024), "the CPUs, rounded up", "workers of each replica"),
    _replica("ENGINE", OneOf(ENGINES), "`auto`", "what computes the predictions", "model"),
    _replica("MAX_BATCH_ROWS", WholeNumber(1, 1_000_000), "256", "rows that one predict call takes"),
    _replica(
        "MAX_PENDING", WholeNumber(1, 10_000_000), "4096", "rows that wait in a worker; more are answered with 503"
    ),
    _replica("MAX_BODY_BYTES", WholeNumber(1, 2**31), "1048576", "size of a request's body", "nginx"),
    _replica("KEEP_ALIVE", WholeNumber(1, 3600), "75", "seconds that an idle connection is kept"),
    _replica("GRACEFUL_TIMEOUT", WholeNumber(1, 3600), "30", "seconds that a worker may take to finish its requests"),
    _replica("LOG_LEVEL", OneOf(LOG_LEVELS), "`info`", "least severe messages that replicas log"),
)

_URL = Text("URL")
# Of the registry of `make up-full`: another database, another store, and the secrets of its own ones.
REGISTRY_VARIABLES = (
    Variable("DATABASE_URL", _URL, "a database of its own", "MySQL, MariaDB or PostgreSQL of yours, with the password",
             services=("mlflow",), secret=True),
    Variable("DATABASE_PASSWORD", Text(), "made by `make up-full`", "password of its own database",
             services=("mlflow", "database"), secret=True),
    Variable("S3_ENDPOINT_URL", _URL, "a store of its own", "S3 store of yours", services=("mlflow",)),
    Variable("S3_BUCKET", Text(), "`mlflow`", "bucket for artifacts", services=("mlflow",)),
    Variable("S3_REGION", Text(), "`us-east-1`", "its region", services=("mlflow",)),
    Variable("S3_ACCESS_KEY_ID", Text(), "made by `make up-full`", "key of the store",
             services=("mlflow", "object-store"), secret=True),
    Variable("S3_SECRET_ACCESS_KEY", Text(), "made by `make up-full`", "secret of that key",
             services=("mlflow", "object-store"), secret=True),
    Variable("OBJECT_STORE_BYTES", Text("size, such as `16G`"), "16G", "most that its own store holds",
             services=("object-store",)),
)  # fmt: skip

# MLflow's and the S3 client's own, for whoever asks a registry.
CREDENTIAL_VARIABLES = (
    Variable("MLFLOW_TRACKING_USERNAME", Text(), "none", "user name at the registry", services=("model",)),
    Variable("MLFLOW_TRACKING_PASSWORD", Text(), "none", "its password", services=("model",), secret=True),
    Variable("MLFLOW_TRACKING_TOKEN", Text(), "none", "token in their place", services=("model",), secret=True),
    Variable("MLFLOW_S3_ENDPOINT_URL", _URL, "AWS", "S3 store of the artifacts, where MLflow is no proxy for it",
             services=("model",)),
    Variable("AWS_ACCESS_KEY_ID", Text(), "none", "key of that store", services=("model",), secret=True),
    Variable("AWS_SECRET_ACCESS_KEY", Text(), "none", "secret of that key", services=("model",), secret=True),
    Variable("AWS_SESSION_TOKEN", Text(), "none", "token of a temporary key", services=("model",), secret=True),
    Variable("AWS_DEFAULT_REGION", Text(), "`us-east-1`", "region of that store", services=("model",)),
)  # fmt: skip

# What docker-compose.yml asks for besides; the verbs fill it in.
INTERNAL_VARIABLES = (
    "MODEL_FOLDER", "STOP_GRACE_PERIOD", "CODE_DIGEST", "CONFIG_DIGEST", "SERVICE_CPUSET", "GENERATOR_CPUSET",
    "API_KEYS_FOLDER", "API_KEYS_NAME", "COMPOSE_PROFILES",
)  # fmt: skip

_USERS = WholeNumber(1, 100_000)
_SECONDS = WholeNumber(1, 3600)
# Read by deploy/scaling.
LAB_VARIABLES = (
    Variable("USERS", _USERS, "10000; 500 of `quick`", "most users"),
    Variable("STEP_USERS", _USERS, "500", "users that each step adds"),
    Variable("SPAWN_RATE", _USERS, "500", "users that arrive a second"),
    Variable("STEP_SECONDS", _SECONDS, "30", "length of a step"),
    Variable("SETTLE_SECONDS", _SECONDS, "10", "seconds at the start of a step that are thrown away"),
    Variable("PROFILE", OneOf(("quick", "medium", "load", "stress")), "`quick`", "users and time of `make load`"),
    Variable("RUN_TIME", Text("time, such as `5m`"), "that of the profile", "length of `make load`"),
    Variable("TOPOLOGIES", Text("list"), "pairs of equal totals", "what to compare, such as `1x1/1G:2 2x0.5/512M:1`"),
    Variable("WORKERS", Text("list of whole numbers"), "`1 2 4`", "numbers of workers to compare"),
    Variable("CLIENT", OneOf(("light", "fast", "batch")), "`light`", "kind of user"),
    Variable("SLO_P95_MS", Text("milliseconds"), "1000", "objective: 95th percentile of the latency"),
    Variable("SLO_FAILURES", Text("percent"), "1", "objective: requests that fail"),
    Variable("SLO_CPU", Text("percent"), "90", "objective: use of the CPU limit"),
    Variable("SLO_MEMORY", Text("percent"), "90", "objective: use of the memory limit"),
    Variable("LOCUST_PROCESSES", WholeNumber(1, 64), "the generator's CPUs", "processes of the lab's load generator"),
    Variable("RESULTS_DIR", Text("folder"), "`results`", "where results are written"),
    Variable("RESULTS", Text("folder"), "the newest results", "results that `make plan` and `make report` read"),
    Variable("RESUME", Text("folder"), "", "results of a `make compare` to go on with"),
)
