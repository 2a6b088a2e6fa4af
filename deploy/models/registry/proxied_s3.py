"""An S3 artifact repository for MLflow's server that never hands presigned URLs to clients.

If its repository can presign URLs, MLflow 3.17 tells clients to download artifacts from S3 directly. The stack's own S3
store is reachable from the server only: a client on the host retried for ten minutes and failed. No setting of the
server turns that off, but a repository that is not a ``MultipartDownloadMixin`` does.
"""

from __future__ import annotations

from typing import Any

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository


class ProxiedS3(ArtifactRepository):  # type: ignore[misc]
    """MLflow's S3 repository without presigned URLs: the server transfers every artifact itself."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self._s3 = S3ArtifactRepository(artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Upload one file to the folder ``artifact_path`` of the repository."""
        self._s3.log_artifact(local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Upload a folder's content to the folder ``artifact_path`` of the repository."""
        self._s3.log_artifacts(local_dir, artifact_path)

    def list_artifacts(self, path: str | None = None) -> Any:
        """Return the files and folders under ``path``, as MLflow's ``FileInfo`` objects."""
        return self._s3.list_artifacts(path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Delete the artifacts under ``artifact_path``."""
        self._s3.delete_artifacts(artifact_path)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._s3._download_file(remote_file_path, local_path)
