"""Whether manifests are what Kubernetes' API takes: strictly, so that a name that it does not know is a fault."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache

import kubernetes_validate  # type: ignore[import-untyped]

from deploy.checks.kubernetes.manifests import Manifest, name

# The oldest with a `sleep` in preStop, and one of today's.
VERSIONS = ("1.30", "1.36")
_WITHOUT_SPEC = {"Namespace", "ConfigMap", "Secret"}


def faults(manifests: Sequence[Manifest]) -> Iterator[str]:
    """One line for each manifest that one of the versions refuses."""
    for one in manifests:
        # Not required by the schemas, and read by all that comes after them.
        spec = one.get("spec", {})
        if not spec and one["kind"] not in _WITHOUT_SPEC:
            yield f"{name(one)}: spec is missing"
        if "template" in spec and "spec" not in spec["template"]:
            yield f"{name(one)}: spec.template.spec is missing"
        for version in VERSIONS:
            if fault := _fault(json.dumps(one), version):
                yield f"{name(one)}: Kubernetes {version}: {fault}"


# The schemas are read from their files each time, which takes longer than all else.
@lru_cache(maxsize=1024)
def _fault(manifest: str, version: str) -> str | None:
    try:
        kubernetes_validate.validate(json.loads(manifest), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(str(part) for part in error.absolute_path) or 'the manifest'}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        return str(error.message)
    return None
