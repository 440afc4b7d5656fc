#!/usr/bin/env python3
"""Mixed load for an hour while configuration changes every second: failed requests and memory, Malla beside Envoy.

One worker each, both at once, the same resources from files: a gateway, a pair of sidecars in one process with mutual TLS and
HTTP/2 between them, and a TCP hop. Each second one of these changes: routes, endpoints, clusters, certificates, and a listener
comes or goes. Only what changed may notice. Needs a build (`cargo build --profile dist -p malla`), nginx, openssl, oha and Envoy (MALLA_ENVOY).
"""
import argparse
import contextlib
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import lab

TYPES = "type.googleapis.com/envoy"
MANAGER = f"{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
FIRST_PORT = {"malla": 18200, "envoy": 18300}
# What is asked of each listener: (listener, requests a second, further arguments of oha).
LOADS = {
    "HTTP/1.1": ("gateway", 60, ["-c", "8"]),
    "HTTP/1.1, a connection each": ("gateway", 20, ["-c", "4", "--disable-keepalive"]),
    "HTTP/2": ("gateway", 60, ["--http2", "-c", "2", "-p", "4"]),
    "POST of 64 KiB": ("gateway", 20, ["-c", "4", "-m", "POST", "-d", "x" * 65536]),
    "through mutual TLS": ("outbound", 60, ["-c", "8"]),
    "TCP": ("tcp", 40, ["-c", "8"]),
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=int, default=60)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        lab.certificates(folder)
        stack.enter_context(lab.backend(folder))
        meshes = [stack.enter_context(Mesh.started(name, folder)) for name in FIRST_PORT]
        rows = []
        for minute in range(1, chosen.minutes + 1):
            for mesh in meshes:
                mesh.begin()
            row = [f"minute {minute}"]
            for mesh in meshes:
                row += mesh.end()
            rows.append(row)
            print(*row, flush=True)
        lab.table(["", *(f"{mesh.name} {what}" for mesh in meshes for what in ["served", "failed", "PSS MiB"])], rows)
        for mesh in meshes:
            print(f"{mesh.name}: {mesh.served} served, {mesh.changes} changes of configuration, failures: {mesh.failed or 'none'}")
        sys.exit(1 if meshes[0].failed else 0)


class Mesh:
    """One proxy, its files, and the load on it."""

    def __init__(self, name, folder):
        self.name, self.folder, self.served, self.failed, self.changes = name, folder / f"soak-{name}", 0, {}, 0
        self.certificates = folder
        self.folder.mkdir()
        self.ports = {listener: FIRST_PORT[name] + at for at, listener in enumerate(["gateway", "outbound", "inbound", "tcp", "extra"])}
        self.over = threading.Event()
        for step in range(len(KINDS)):
            self.write(step)

    @classmethod
    @contextlib.contextmanager
    def started(cls, name, folder):
        mesh = cls(name, folder)
        bootstrap = mesh.folder / "bootstrap.json"
        bootstrap.write_text(json.dumps(mesh.bootstrap()))
        with lab.running(lab.command(name, bootstrap), mesh.ports["gateway"]) as process:
            for listener in ["outbound", "inbound", "tcp"]:
                lab.wait_for(mesh.ports[listener], process)
            mesh.process = process
            changing = threading.Thread(target=mesh.churn)
            changing.start()
            try:
                yield mesh
            finally:
                mesh.over.set()
                changing.join()

    def begin(self):
        """Starts a minute of every kind of load."""
        self.running = {title: subprocess.Popen(
            [lab.OHA, "--no-tui", "--output-format", "json", "-z", "60s", "-w", "-q", str(rate), *further,
             f"http://127.0.0.1:{self.ports[listener]}/"], stdout=subprocess.PIPE, text=True)
            for title, (listener, rate, further) in LOADS.items()}

    def end(self):
        """What that minute came to: requests served, requests failed, MiB."""
        served = failed = 0
        for title, process in self.running.items():
            report = json.loads(process.communicate(timeout=120)[0])
            served += report["statusCodeDistribution"].pop("200", 0)
            for what, count in (report["statusCodeDistribution"] | report["errorDistribution"]).items():
                if "deadline" not in what:
                    failed += count
                    self.failed[f"{title}: {what}"] = self.failed.get(f"{title}: {what}", 0) + count
        if self.process.poll() is not None:
            sys.exit(f"{self.name} is gone")
        self.served += served
        return served, failed, round(lab.pss(self.process.pid), 1)

    def churn(self):
        for step in itertools.count(1):
            if self.over.wait(1):
                return
            self.write(step)
            self.changes += 1

    def write(self, step):
        """Changes one kind of resource to what it is at `step`."""
        kind, resources, together = KINDS[step % len(KINDS)]
        made = resources(self, step)
        for file, inside in [(kind, made)] if together else [(f"{kind}-{each.get('name', each.get('cluster_name'))}", [each]) for each in made]:
            self.place(file, {"version_info": str(step), "resources": inside})

    def place(self, file, content):
        """Files are followed by moves into their folder, as Kubernetes writes them."""
        new = self.folder / f"{file}.new"
        new.write_text(json.dumps(content))
        os.replace(new, self.folder / f"{file}.json")

    def source(self, file):
        return {"path_config_source": {"path": str(self.folder / f"{file}.json")}, "resource_api_version": "V3"}

    def bootstrap(self):
        return {"node": {"id": "soak", "cluster": "soak"},
                "dynamic_resources": {"lds_config": self.source("listeners"), "cds_config": self.source("clusters")}}

    def listeners(self, step):
        listeners = [self.listener("gateway", [self.manager("gateway", "routes")]),
                     self.listener("outbound", [self.manager("outbound", "to-inbound")]),
                     self.listener("inbound", [self.manager("inbound", "routes")], {"transport_socket": self.tls("server")}),
                     self.listener("tcp", [extension("tcp", f"{TYPES}.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                                                     stat_prefix="tcp", cluster="backend")])]
        if step // len(KINDS) % 2:
            listeners.append(self.listener("extra", [self.manager("extra", "routes")]))
        return [{"@type": f"{TYPES}.config.listener.v3.Listener", **listener} for listener in listeners]

    def listener(self, name, filters, chain={}):
        return {"name": name, "address": address("127.0.0.1", self.ports[name]), "filter_chains": [{"filters": filters, **chain}]}

    def manager(self, prefix, routes):
        router = extension("envoy.filters.http.router", f"{TYPES}.extensions.filters.http.router.v3.Router")
        return extension("manager", MANAGER, stat_prefix=prefix, http_filters=[router],
                         rds={"route_config_name": routes, "config_source": self.source(f"routes-{routes}")})

    def routes(self, step):
        def table(name, cluster):
            added = [{"header": {"key": "x-step", "value": str(step)}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
            others = [{"match": {"prefix": f"/other-{n}"}, "direct_response": {"status": 404}} for n in range(step % 50)]
            retry = {"retry_on": "connect-failure,refused-stream,unavailable,cancelled,503", "num_retries": 2}
            return {"@type": f"{TYPES}.config.route.v3.RouteConfiguration", "name": name, "response_headers_to_add": added,
                    "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                        *others, {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s", "retry_policy": retry}}]}]}
        return [table("routes", "backend"), table("to-inbound", "inbound")]

    def clusters(self, step):
        http2 = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}
        round_number = step // len(KINDS)
        clusters = [
            # Every other change is one that replaces the cluster, and its connections, while requests use it.
            self.cluster("backend", connect_timeout=f"{1 + round_number % 2}s"),
            self.cluster("inbound", transport_socket=self.tls("client"), typed_extension_protocol_options=http2),
            *(self.cluster(f"spare-{n}") for n in range(round_number % 20))]
        return [{"@type": f"{TYPES}.config.cluster.v3.Cluster", **cluster} for cluster in clusters]

    def cluster(self, name, **fields):
        return {"name": name, "type": "EDS", "connect_timeout": "1s", "lb_policy": "LEAST_REQUEST",
                "eds_cluster_config": {"eds_config": self.source(f"endpoints-{name}")}, **fields}

    def endpoints(self, step):
        def of(name, addresses, port):
            return {"@type": f"{TYPES}.config.endpoint.v3.ClusterLoadAssignment", "cluster_name": name, "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address(host, port)}} for host in addresses]}]}
        backends = ["127.0.0.1"] if step // len(KINDS) % 2 else ["127.0.0.1", "127.0.0.2"]
        return [of("backend", backends, lab.BACKEND), of("inbound", ["127.0.0.1"], self.ports["inbound"]),
                *(of(f"spare-{n}", ["127.0.0.1"], lab.BACKEND) for n in range(20))]

    def secrets(self, step):
        """The same certificates again, told apart by an end of line: a rotation, to the proxy."""
        def text(file):
            return {"inline_string": (self.certificates / file).read_text() + "\n" * (step % 2)}
        pairs = [{"@type": f"{TYPES}.extensions.transport_sockets.tls.v3.Secret", "name": name, "tls_certificate": {
            "certificate_chain": text(f"{name}.pem"), "private_key": text(f"{name}.key")}} for name in ["client", "server"]]
        return [*pairs, {"@type": f"{TYPES}.extensions.transport_sockets.tls.v3.Secret", "name": "ca",
                         "validation_context": {"trusted_ca": text("ca.pem")}}]

    def tls(self, side):
        def secret(name):
            return {"name": name, "sds_config": self.source(f"secrets-{name}")}
        context = "DownstreamTlsContext" if side == "server" else "UpstreamTlsContext"
        own = {"require_client_certificate": True} if side == "server" else {"sni": "backend"}
        return extension("envoy.transport_sockets.tls", f"{TYPES}.extensions.transport_sockets.tls.v3.{context}", **own, common_tls_context={
            "alpn_protocols": ["h2"], "tls_certificate_sds_secret_configs": [secret(side)], "validation_context_sds_secret_config": secret("ca")})


# Kind, its resources, and whether they are in one file: Envoy takes no more than one of what is asked for by name.
KINDS = [("routes", Mesh.routes, False), ("endpoints", Mesh.endpoints, False), ("clusters", Mesh.clusters, True),
         ("listeners", Mesh.listeners, True), ("secrets", Mesh.secrets, False)]


def address(host, port):
    return {"socket_address": {"address": host, "port_value": port}}


def extension(name, kind, **fields):
    return {"name": name, "typed_config": {"@type": kind if "/" in kind else f"type.googleapis.com/{kind}", **fields}}


if __name__ == "__main__":
    main()
