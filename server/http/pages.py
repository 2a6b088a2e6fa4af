"""The pages for people: Swagger UI and Redoc on the model's own OpenAPI document, with no internet.

Both come from packages that carry the projects' built files; only their files are used, nothing is imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

# Redoc would fetch its maker's logo from elsewhere.
_POLICY = "default-src 'self' 'unsafe-inline' data: blob:"
_SWAGGER = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="assets/swagger/images/swagger.svg">
<link rel="stylesheet" href="assets/swagger/css/swagger-ui.css"></head>
<body><div id="ui"></div><script src="assets/swagger/js/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({{url: "openapi.json", dom_id: "#ui", deepLinking: true}});</script></body></html>
"""
_REDOC = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="assets/redoc/images/redoc.svg"></head>
<body style="margin:0"><div id="ui"></div><script src="assets/redoc/js/redoc.standalone.js"></script>
<script>Redoc.init("openapi.json", {{disableGoogleFont: true}}, document.getElementById("ui"));</script></body></html>
"""


def swagger_page(title: str) -> str:
    """The page at ``/docs``."""
    return _SWAGGER.format(title=_text(title), policy=_POLICY)


def redoc_page(title: str) -> str:
    """The page at ``/redoc``."""
    return _REDOC.format(title=_text(title), policy=_POLICY)


def asset_routes() -> list[Mount]:
    """Where the pages' scripts and styles are served from."""
    return [
        Mount("/assets/swagger", StaticFiles(directory=_files("flask_openapi3_swagger") / "swagger")),
        Mount("/assets/redoc", StaticFiles(directory=_files("flask_openapi3_redoc") / "redoc")),
    ]


def _files(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.origin:
        raise ModuleNotFoundError(f"the package {package} is not installed; run `make up`, or install the lock file")
    return Path(spec.origin).parent / "templates"


def _text(title: str) -> str:
    return title.replace("&", "&amp;").replace("<", "&lt;")
