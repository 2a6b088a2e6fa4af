"""Whether manifests are what Kubernetes' API takes: strictly, so that a name that it does not know is a fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import kubernetes_validate  # type: ignore[import-untyped]

from deploy.kubernetes.manifests import Manifest, name

# The oldest with a `sleep` in preStop, and one of today's.
VERSIONS = ("1.30", "1.36")


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """One line for each manifest that one of the versions refuses."""
    for one in manifests:
        for version in VERSIONS:
            if fault := _fault(one, version):
                yield fault


def _fault(manifest: Manifest, version: str) -> str | None:
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        place = ".".join(str(part) for part in error.absolute_path)
        return f"{name(manifest)}: Kubernetes {version}: {place or 'the manifest'}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        return f"{name(manifest)}: {error.message}"
    return None
