"""What is looked at, and what is told of it: Prometheus' configuration, its rules, and Grafana's dashboard.

The rules are computed by Prometheus itself in tests/e2e/test_monitoring.py, in its image.
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
# What a replica exports: what it counts, and what it looks at when it is asked (server/metrics/).
REPLICAS = {one.name + "_total" * (one.type == "counter") for one in Metrics().registry.collect()} | {
    "forkcast_model_info", "forkcast_model_stale", "forkcast_memory_shared_bytes", "forkcast_memory_private_bytes",
    "forkcast_memory_used_bytes", "forkcast_memory_limit_bytes", "forkcast_cpu_seconds_total", "forkcast_cpu_limit",
}  # fmt: skip
# What Nginx's exporter makes of Nginx's page, as far as it is of use.
NGINX = {"nginx_up", "nginx_http_requests_total", "nginx_connections_accepted"} | {
    f"nginx_connections_{state}" for state in ("active", "reading", "writing", "waiting")
}


def asked(expression: str) -> set[str]:
    """The series that an expression names, histograms without the ends of theirs."""
    names = re.findall(r"\b(?:forkcast|nginx)[_:][a-z0-9_:]+", re.sub(r'"[^"]*"', "", expression))
    return {re.sub("_(bucket|sum|count)$", "", name) for name in names}


def scraped(job: str) -> dict[str, Any]:
    (found,) = [one for one in PROMETHEUS["scrape_configs"] if one["job_name"] == job]
    return dict(found)


def test_every_replica_is_found_by_its_name() -> None:
    """Prometheus asks all addresses of the service, at the port that a replica listens on in its image."""
    (server,) = scraped("forkcast")["dns_sd_configs"]
    assert (server["names"], server["type"]) == (["server"], "A")
    assert "server" in COMPOSE
    assert f"PORT={server['port']} " in DOCKERFILE


def test_nginx_is_asked_through_its_exporter() -> None:
    """The exporter is a service of its own, which reads Nginx's page inside the network."""
    assert scraped("nginx")["static_configs"] == [{"targets": ["nginx-exporter:9113"]}]
    (uri,) = [word for word in COMPOSE["nginx-exporter"]["command"] if "scrape-uri" in word]
    port, path = re.fullmatch(r"--nginx\.scrape-uri=http://nginx:(\d+)(/\w+)", uri).groups()  # type: ignore[union-attr]
    assert f"STATUS_LISTEN={port} " in DOCKERFILE
    configuration = (ROOT / "nginx/nginx.conf").read_text()
    (inside,) = re.findall(r"listen \$\{STATUS_LISTEN\};.*", configuration, re.DOTALL)
    assert re.search(rf"location = {path} {{\s+stub_status;", inside)
    assert not any(published.endswith(f":{port}") for published in COMPOSE["nginx"]["ports"])


def test_what_is_kept_is_bounded() -> None:
    """Prometheus deletes what is old, and what is too much, whichever comes first."""
    assert '"--storage.tsdb.retention.time=15d"' in DOCKERFILE
    assert '"--storage.tsdb.retention.size=1GB"' in DOCKERFILE
    assert COMPOSE["prometheus"]["volumes"] == ["metrics:/var/lib/prometheus"]
    assert all("mem_limit" in COMPOSE[service] for service in ("prometheus", "nginx-exporter", "grafana"))


def test_nobody_may_change_prometheus() -> None:
    """Whoever reaches Prometheus' page can neither stop it nor delete what it has read."""
    assert not re.search(r'"--web\.enable-', DOCKERFILE)


def test_nobody_may_change_grafana() -> None:
    """Grafana has no user: whoever reaches it looks, with no password that could be the default one."""
    settings = COMPOSE["grafana"]["environment"]
    assert settings["GF_AUTH_ANONYMOUS_ENABLED"] == settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert settings["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert settings["GF_AUTH_BASIC_ENABLED"] == "false"


def test_objective_is_that_of_the_lab() -> None:
    """The alerts and the dashboard know the objective by the figures that the scaling lab judges by."""
    slo = Slo()
    bounds = {
        "ForkcastFailures": ("forkcast:failures:ratio2m", slo.failure_percent / 100),
        "ForkcastSlow": ("forkcast:request_seconds:p95_2m", slo.p95_ms / 1000),
        "ForkcastCpu": ("forkcast:cpu:ratio", slo.cpu_percent / 100),
        "ForkcastMemory": ("forkcast:memory:ratio", slo.memory_percent / 100),
    }
    for alert, (series, bound) in bounds.items():
        assert ALERTS[alert]["expr"] == f"{series} > {bound:g}"
        shown = [panel for panel in PANELS if any(target["expr"] == series for target in panel["targets"])]
        assert shown
        for panel in shown:
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1] == {"color": "red", "value": bound}


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_alerts_are_for_people(alert: str) -> None:
    """An alert says what is wrong and what to do, how bad it is, and does not tell of a moment."""
    rule = ALERTS[alert]
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert re.fullmatch(r"(1|2|5|10)m", rule["for"])


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_alerts_are_tested(alert: str) -> None:
    """There is a case in which an alert tells, and one in which it is silent."""
    cases = [case for test in TESTS for case in test["alert_rule_test"] if case["alertname"] == alert]
    assert any(case["exp_alerts"] for case in cases)
    assert any(not case["exp_alerts"] for case in cases)


@pytest.mark.parametrize("expression", sorted({rule["expr"] for rule in RULES} | {one["expr"] for one in TARGETS}))
def test_only_what_there_is_is_asked(expression: str) -> None:
    """Rules and panels ask for series that a replica, Nginx's exporter or a rule makes."""
    assert asked(expression) <= REPLICAS | NGINX | {rule["record"] for rule in RULES if "record" in rule}


def test_every_series_is_shown() -> None:
    """What replicas tell is on the dashboard, by itself or by a rule."""
    made = {rule["record"]: asked(rule["expr"]) for rule in RULES if "record" in rule}
    shown = set().union(*(asked(target["expr"]) for target in TARGETS))
    for name in shown & set(made):
        shown |= made[name]
    assert REPLICAS - shown == {"forkcast_model_stale"}
    assert "forkcast_model_stale" in asked(ALERTS["ForkcastModelStale"]["expr"])


def test_panels_stand_side_by_side() -> None:
    """No panel covers another or is wider than the page, and each has a title, a unit or a table, and a number."""
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["title"]
        assert panel["type"] == "table" or panel["fieldConfig"]["defaults"]["unit"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_dashboard_asks_the_source_that_is_provisioned() -> None:
    """Every query goes to the one data source, which is Prometheus in its container."""
    (source,) = yaml.safe_load((FOLDER / "grafana/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    places = [one["datasource"] for one in [*PANELS, *TARGETS]]
    assert all(place == {"type": source["type"], "uid": source["uid"]} for place in places)


def test_dashboard_is_where_grafana_looks() -> None:
    """The folder that is mounted has the dashboard which is the home page."""
    (provider,) = yaml.safe_load((FOLDER / "grafana/dashboards/forkcast.yml").read_text())["providers"]
    path = provider["options"]["path"]
    assert f"./deploy/monitoring/grafana/dashboards:{path}:ro" in COMPOSE["grafana"]["volumes"]
    home = COMPOSE["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{path}/forkcast.json"
    assert not provider["allowUiUpdates"]
