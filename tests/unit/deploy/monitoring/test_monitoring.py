"""Tests of Prometheus' configuration and rules, and of Grafana's dashboard, as files.

tests/e2e/test_monitoring.py evaluates the rules in the image of Prometheus.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from deploy.scaling.slo import Slo
from deploy.stack.paths import ROOT
from server.metrics.counts import Metrics
from tests.support.dockerfile import DOCKERFILE

FOLDER = ROOT / "deploy/monitoring"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
PROMETHEUS = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
TESTS = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
DASHBOARD = json.loads((FOLDER / "grafana/dashboards/forkcast.json").read_text())
PANELS = DASHBOARD["panels"]
TARGETS = [target for panel in PANELS for target in panel["targets"]]
# The metrics of a replica: those that it counts, and those that it measures at a scrape (server/metrics/).
REPLICAS = {metric.name + "_total" * (metric.type == "counter") for metric in Metrics().registry.collect()} | {
    "forkcast_model_info", "forkcast_model_stale", "forkcast_memory_shared_bytes", "forkcast_memory_private_bytes",
    "forkcast_memory_used_bytes", "forkcast_memory_limit_bytes", "forkcast_cpu_seconds_total", "forkcast_cpu_limit",
}  # fmt: skip
# The metrics of Nginx's exporter that rules and panels may use.
NGINX = {"nginx_up", "nginx_http_requests_total", "nginx_connections_accepted"} | {
    f"nginx_connections_{state}" for state in ("active", "reading", "writing", "waiting")
}


def series_of(expression: str) -> set[str]:
    """Return the series that an expression names; histograms without _bucket, _sum and _count."""
    names = re.findall(r"\b(?:forkcast|nginx)[_:][a-z0-9_:]+", re.sub(r'"[^"]*"', "", expression))
    return {re.sub("_(bucket|sum|count)$", "", name) for name in names}


def scrape_config(job: str) -> dict[str, Any]:
    (config,) = [config for config in PROMETHEUS["scrape_configs"] if config["job_name"] == job]
    return dict(config)


def test_replicas_are_discovered_by_the_service_name() -> None:
    """Prometheus scrapes all addresses of the service, at the port of a replica in its image."""
    (server,) = scrape_config("forkcast")["dns_sd_configs"]
    assert (server["names"], server["type"]) == (["server"], "A")
    assert "server" in COMPOSE
    assert f"PORT={server['port']} " in DOCKERFILE


def test_nginx_is_scraped_through_its_exporter() -> None:
    """The exporter is a separate service that reads Nginx's counters over a port that is not published."""
    assert scrape_config("nginx")["static_configs"] == [{"targets": ["nginx-exporter:9113"]}]
    (uri,) = [word for word in COMPOSE["nginx-exporter"]["command"] if "scrape-uri" in word]
    port, path = re.fullmatch(r"--nginx\.scrape-uri=http://nginx:(\d+)(/\w+)", uri).groups()  # type: ignore[union-attr]
    assert f"STATUS_LISTEN={port} " in DOCKERFILE
    configuration = (ROOT / "nginx/nginx.conf").read_text()
    (inside,) = re.findall(r"listen \$\{STATUS_LISTEN\};.*", configuration, re.DOTALL)
    assert re.search(rf"location = {path} {{\s+stub_status;", inside)
    assert not any(published.endswith(f":{port}") for published in COMPOSE["nginx"]["ports"])


def test_data_and_memory_of_monitoring_are_limited() -> None:
    """Prometheus deletes data by age and by size, and every service of monitoring has a memory limit."""
    assert '"--storage.tsdb.retention.time=15d"' in DOCKERFILE
    assert '"--storage.tsdb.retention.size=1GB"' in DOCKERFILE
    assert COMPOSE["prometheus"]["volumes"] == ["metrics:/var/lib/prometheus"]
    assert all("mem_limit" in COMPOSE[service] for service in ("prometheus", "nginx-exporter", "grafana"))


def test_prometheus_is_read_only() -> None:
    """Clients of Prometheus can neither stop it nor delete its data."""
    assert not re.search(r'"--web\.enable-', DOCKERFILE)


def test_grafana_is_read_only() -> None:
    """Grafana has no users and no default password: anonymous clients can only view."""
    settings = COMPOSE["grafana"]["environment"]
    assert settings["GF_AUTH_ANONYMOUS_ENABLED"] == settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert settings["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert settings["GF_AUTH_BASIC_ENABLED"] == "false"


def test_alerts_and_dashboard_use_the_objective_of_the_lab() -> None:
    """The bounds of the alerts, and the red lines of the dashboard, are those of the scaling lab's objective."""
    slo = Slo()
    bounds = {
        "ForkcastFailures": ("forkcast:failures:ratio2m", slo.failure_percent / 100),
        "ForkcastSlow": ("forkcast:request_seconds:p95_2m", slo.p95_ms / 1000),
        "ForkcastCpu": ("forkcast:cpu:ratio", slo.cpu_percent / 100),
        "ForkcastMemory": ("forkcast:memory:ratio", slo.memory_percent / 100),
    }
    for alert, (series, bound) in bounds.items():
        assert ALERTS[alert]["expr"] == f"{series} > {bound:g}"
        panels = [panel for panel in PANELS if any(target["expr"] == series for target in panel["targets"])]
        assert panels
        for panel in panels:
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1] == {"color": "red", "value": bound}


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_alert_has_texts_severity_and_duration(alert: str) -> None:
    """Each alert has a summary, a description, a severity and a duration of one to ten minutes."""
    rule = ALERTS[alert]
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert re.fullmatch(r"(1|2|5|10)m", rule["for"])


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_alert_has_tests_that_fire_and_that_do_not(alert: str) -> None:
    """rules_test.yml has a case in which the alert fires, and a case in which it does not."""
    cases = [case for test in TESTS for case in test["alert_rule_test"] if case["alertname"] == alert]
    assert any(case["exp_alerts"] for case in cases)
    assert any(not case["exp_alerts"] for case in cases)


@pytest.mark.parametrize("expression", sorted({item["expr"] for item in [*RULES, *TARGETS]}))
def test_expression_uses_only_existing_series(expression: str) -> None:
    """Rules and panels use only series of a replica, of Nginx's exporter or of a recording rule."""
    assert series_of(expression) <= REPLICAS | NGINX | {rule["record"] for rule in RULES if "record" in rule}


def test_every_metric_of_a_replica_is_used() -> None:
    """Each metric of a replica is on the dashboard, directly or through a rule; one is used by an alert only."""
    recorded = {rule["record"]: series_of(rule["expr"]) for rule in RULES if "record" in rule}
    shown = set().union(*(series_of(target["expr"]) for target in TARGETS))
    for name in shown & set(recorded):
        shown |= recorded[name]
    assert REPLICAS - shown == {"forkcast_model_stale"}
    assert "forkcast_model_stale" in series_of(ALERTS["ForkcastModelStale"]["expr"])


def test_panels_do_not_overlap() -> None:
    """No panel overlaps another or exceeds the page; each has a title, a unique id, and a unit unless it is a table."""
    occupied: set[tuple[int, int]] = set()
    for panel in PANELS:
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & occupied, panel["title"]
        assert max(x for x, _ in cells) < 24
        occupied |= cells
        assert panel["title"]
        assert panel["type"] == "table" or panel["fieldConfig"]["defaults"]["unit"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_dashboard_uses_the_provisioned_data_source() -> None:
    """Every query uses the only data source, which is Prometheus in its container."""
    (source,) = yaml.safe_load((FOLDER / "grafana/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    references = [item["datasource"] for item in [*PANELS, *TARGETS]]
    assert all(reference == {"type": source["type"], "uid": source["uid"]} for reference in references)


def test_dashboard_is_mounted_as_the_home_page() -> None:
    """The folder of the dashboard is mounted where Grafana reads dashboards, and its file is the home page."""
    (provider,) = yaml.safe_load((FOLDER / "grafana/dashboards/forkcast.yml").read_text())["providers"]
    path = provider["options"]["path"]
    assert f"./deploy/monitoring/grafana/dashboards:{path}:ro" in COMPOSE["grafana"]["volumes"]
    home = COMPOSE["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{path}/forkcast.json"
    assert not provider["allowUiUpdates"]
