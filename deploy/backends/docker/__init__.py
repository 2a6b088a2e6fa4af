"""The container backend: the same verbs on Docker, by Compose."""
