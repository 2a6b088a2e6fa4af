"""Prometheus metrics: what workers count (`counts`), the files they count in (`folder`), and `/metrics` (`scrape`)."""
