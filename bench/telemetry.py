#!/usr/bin/env python3
"""What telemetry costs a request: Malla's proxy beside stock Envoy, one worker each, the same YAML and load.

Needs nginx, h2load (nghttp2-client) and Envoy (MALLA_ENVOY); prints CPU time per request, medians of interleaved rounds.
"""
import argparse
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import lab

LEVELS = ["off", "metrics", "+ logs", "+ traces 1 %", "+ traces 100 %"]
ADMIN, COLLECTOR = 19901, 14317

HEAD = """
node: {{ id: "sidecar~127.0.0.1~bench.base~base.svc.cluster.local", cluster: bench.base, metadata: {{ NAMESPACE: base, WORKLOAD_NAME: bench, CLUSTER_ID: Kubernetes, LABELS: {{ app: bench, version: v1 }} }} }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}
static_resources:
  listeners:
  - name: gateway
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {listener} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: gateway
          generate_request_id: true
"""
TRACING = """
          tracing:
            random_sampling: {{ value: {sampling} }}
            provider:
              name: envoy.tracers.opentelemetry
              typed_config:
                "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                service_name: bench
                grpc_service: {{ envoy_grpc: {{ cluster_name: collector }}, timeout: 1s }}
"""
LOGS = """
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: /dev/null
          - name: envoy.access_loggers.http_grpc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig
              common_config: { log_name: http, transport_api_version: V3, grpc_service: { envoy_grpc: { cluster_name: collector } } }
"""
ROUTES = """
          route_config:
            name: local
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: { prefix: "/" }
                route: { cluster: backend, timeout: 0s }
          http_filters:
"""
ISTIO_STATS = """
          - name: istio.stats
            typed_config:
              "@type": type.googleapis.com/stats.PluginConfig
"""
TAIL = """
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: backend
    connect_timeout: 1s
    type: STATIC
    load_assignment:
      cluster_name: backend
      endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {backend} }} }} }} }} ] }} ]
  - name: collector
    connect_timeout: 1s
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: collector
      endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {collector} }} }} }} }} ] }} ]
"""


def yaml(level, with_istio_stats):
    at = LEVELS.index(level)
    text = HEAD.format(admin=ADMIN, listener=lab.GATEWAY)
    if at >= 3:
        text += TRACING.format(sampling=1 if at == 3 else 100)
    if at >= 2:
        text += LOGS
    text += ROUTES
    if at >= 1 and with_istio_stats:
        text += ISTIO_STATS
    return text + TAIL.format(backend=lab.BACKEND, collector=COLLECTOR)


def measure(command, requests):
    """Microseconds of the proxy's CPU time per request."""
    with lab.running(command, lab.GATEWAY) as proxy:
        load(requests // 5)
        before = lab.cpu(proxy.pid)
        load(requests)
        return (lab.cpu(proxy.pid) - before) / requests * 1e6


def load(requests):
    command = ["h2load", "--h1", "-n", str(requests), "-c", "32", f"http://127.0.0.1:{lab.GATEWAY}/"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if not re.search(rf"{requests} succeeded, 0 failed", said) or f"status codes: {requests} 2xx" not in said:
        sys.exit(f"not every request succeeded:\n{said}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--requests", type=int, default=100_000, help="requests a round")
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)  # nginx's worker may be another user.
        collector = [lab.TARGET / "examples" / "collector", f"127.0.0.1:{COLLECTOR}"]
        with lab.backend(folder), lab.running(collector, COLLECTOR):
            compare(folder, chosen)


def compare(folder, chosen):
    proxies = ["malla", "envoy"]
    figures = {(name, level): [] for name in proxies for level in LEVELS}
    for _ in range(chosen.rounds):
        for name in proxies:
            for level in LEVELS:
                file = folder / "proxy.yaml"
                file.write_text(yaml(level, name == "malla"))
                figures[name, level].append(measure(lab.command(name, file), chosen.requests))
    print(f"{'CPU us per request':<18} {'malla':>7} {'added':>7} {'envoy':>7} {'added':>7} {'ratio':>6} {'ratio of added':>15}")
    base = {name: statistics.median(figures[name, "off"]) for name in proxies}
    for level in LEVELS:
        malla, envoy = (statistics.median(figures[name, level]) for name in ("malla", "envoy"))
        added = malla - base["malla"], envoy - base["envoy"]
        # Envoy's added cost is within the noise where it has nothing to do.
        share = f"{added[0] / added[1]:.2f}" if added[1] > 1 and level != "off" else ""
        print(f"{level:<18} {malla:7.1f} {added[0]:7.1f} {envoy:7.1f} {added[1]:7.1f} {malla / envoy:6.2f} {share:>15}")
    print("metrics: Istio's standard metrics in Malla; stock Envoy has no such filter, so its row repeats its own statistics.")


if __name__ == "__main__":
    main()
