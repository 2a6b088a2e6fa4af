"""The HTTP application: routes, middleware, API keys, documentation pages and the OpenAPI document."""
