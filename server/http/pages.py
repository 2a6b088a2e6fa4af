"""The pages Swagger UI and Redoc for the model's own OpenAPI document, which need no internet access.

Two packages carry the built scripts and styles of these projects. Their files are served; their code is not imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

# Without this policy Redoc would fetch a logo from the internet.
_CONTENT_SECURITY_POLICY = "default-src 'self' 'unsafe-inline' data: blob:"
_SWAGGER_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="assets/swagger/images/swagger.svg">
<link rel="stylesheet" href="assets/swagger/css/swagger-ui.css"></head>
<body><div id="ui"></div><script src="assets/swagger/js/swagger-ui-bundle.js"></script>
<script>/* Opens this operation: its tag and its operationId. */ location.hash ||= "#/predict/predict";
SwaggerUIBundle({{url: "openapi.json", dom_id: "#ui", deepLinking: true, tryItOutEnabled: true}});</script>
</body></html>
"""
_REDOC_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="assets/redoc/images/redoc.svg"></head>
<body style="margin:0"><div id="ui"></div><script src="assets/redoc/js/redoc.standalone.js"></script>
<script>Redoc.init("openapi.json", {{disableGoogleFont: true}}, document.getElementById("ui"));</script></body></html>
"""


def swagger_page(title: str) -> str:
    """Return the HTML page for ``/docs``."""
    return _SWAGGER_HTML.format(title=_escaped(title), policy=_CONTENT_SECURITY_POLICY)


def redoc_page(title: str) -> str:
    """Return the HTML page for ``/redoc``."""
    return _REDOC_HTML.format(title=_escaped(title), policy=_CONTENT_SECURITY_POLICY)


def asset_routes() -> list[Mount]:
    """Return the routes of the scripts and styles that the pages load."""
    return [
        Mount("/assets/swagger", StaticFiles(directory=_template_folder("flask_openapi3_swagger") / "swagger")),
        Mount("/assets/redoc", StaticFiles(directory=_template_folder("flask_openapi3_redoc") / "redoc")),
    ]


def _template_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.origin:
        raise ModuleNotFoundError(f"the package {package} is not installed; run `make up`, or install the lock file")
    return Path(spec.origin).parent / "templates"


def _escaped(title: str) -> str:
    return title.replace("&", "&amp;").replace("<", "&lt;")
