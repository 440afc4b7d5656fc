#!/usr/bin/env python3
"""The control plane with many services and proxies: one changed endpoint until the last proxy has acknowledged it, the first
push to all, memory per proxy, and who is sent a rule for one host.

The API server is the embedded one, without a node: pods are objects only. The proxies are simulated: each has a connection of
its own, subscribes as Envoy does and acknowledges what it gets. istiod's ports must be free (`unshare -n sh -c "ip link set lo up; ..."`
gives a network of its own). Needs builds: `cargo build --profile dist -p malla`,
`cargo build --profile dist -p malla-apiserver --example serve` and `cargo build --profile dist -p malla-xds --example proxies`.
"""
import argparse
import base64
import http.client
import json
import pathlib
import re
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

import lab

API = 18090
XDS, DEBUG = 15010, 8080
SLICES = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"
RULES = "/apis/networking.istio.io/v1/namespaces/{}/destinationrules"
KINDS = ["Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--services", type=int, default=1000)
    arguments.add_argument("--endpoints", type=int, default=10, help="of each service")
    arguments.add_argument("--proxies", type=int, default=1000)
    arguments.add_argument("--namespaces", type=int, default=20)
    arguments.add_argument("--changes", type=int, default=20, help="of one endpoint each")
    arguments.add_argument("--target", type=pathlib.Path, default=lab.TARGET, help="folder of the builds")
    arguments.add_argument("--malla", type=pathlib.Path, help="the program; by default the one of that folder")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        with lab.running([chosen.target / "examples" / "serve", folder, API], API):
            api = Api(folder / "kubeconfig")
            mesh = Mesh(api, chosen)
            mesh.create()
            measure(chosen, mesh, folder)


class Api:
    """The API server, as its administrator, over one connection."""

    def __init__(self, kubeconfig):
        while not kubeconfig.exists() or not kubeconfig.read_text():
            time.sleep(0.01)
        text = kubeconfig.read_text()
        files = {}
        for key in ["certificate-authority", "client-certificate", "client-key"]:
            encoded = re.search(rf"\b{key}-data:\s*\"?([A-Za-z0-9+/=]+)", text).group(1)
            files[key] = kubeconfig.parent / f"{key}.pem"
            files[key].write_bytes(base64.b64decode(encoded))
        context = ssl.create_default_context(cafile=files["certificate-authority"])
        context.load_cert_chain(files["client-certificate"], files["client-key"])
        self.connection = http.client.HTTPSConnection("127.0.0.1", API, context=context)
        self.kubeconfig = kubeconfig

    def call(self, method, path, body, kind="application/json"):
        headers = {"content-type": kind, "accept": "application/json"}
        try:
            self.connection.request(method, path, json.dumps(body), headers)
            answer = self.connection.getresponse()
        except (OSError, http.client.HTTPException):
            # The server has closed it, idle for too long; the next request opens another.
            self.connection.close()
            self.connection.request(method, path, json.dumps(body), headers)
            answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 300 and answer.status != 409:
            sys.exit(f"{method} {path}: {answer.status} {text.decode()}")
        return json.loads(text)

    def create(self, path, body):
        return self.call("POST", path, body)

    def merge(self, path, body):
        return self.call("PATCH", path, body, "application/merge-patch+json")


class Mesh:
    """Services `s0`, `s1`, ... over the namespaces `n0`, `n1`, ...; the first endpoints of each are pods of simulated proxies."""

    def __init__(self, api, chosen):
        self.api, self.size = api, chosen
        self.tokens = {}

    def namespace(self, service):
        return f"n{service % self.size.namespaces}"

    def address(self, service, replica):
        number = service * max(self.size.endpoints, 1 + self.size.proxies // self.size.services) + replica
        return f"10.{128 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"

    def create(self):
        api = self.api
        for name in ["istio-system", *(f"n{at}" for at in range(self.size.namespaces))]:
            api.create("/api/v1/namespaces", {"metadata": {"name": name}})
            api.create(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
            asked = {"spec": {"audiences": ["istio-ca"], "expirationSeconds": 86400}}
            self.tokens[name] = api.create(f"/api/v1/namespaces/{name}/serviceaccounts/default/token", asked)["status"]["token"]
        definition(api, "DestinationRule", "destinationrules")
        for service in range(self.size.services):
            namespace, name = self.namespace(service), f"s{service}"
            port = {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}
            api.create(f"/api/v1/namespaces/{namespace}/services",
                       {"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": [port]}})
            api.create(SLICES.format(namespace), self.slice(service))
        for _, service, replica in self.proxies():
            self.pod(service, replica)

    def slice(self, service, gone=None):
        """The slice of a service; replica `gone` is not ready."""
        endpoints = [{
            "addresses": [self.address(service, replica)], "nodeName": f"node-{replica}",
            "conditions": {"ready": replica != gone},
            "targetRef": {"kind": "Pod", "name": f"s{service}-{replica}", "namespace": self.namespace(service)},
        } for replica in range(self.size.endpoints)]
        return {"metadata": {"name": f"s{service}", "labels": {"kubernetes.io/service-name": f"s{service}"}},
                "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}

    def pod(self, service, replica):
        namespace, name, address = self.namespace(service), f"s{service}-{replica}", self.address(service, replica)
        path = f"/api/v1/namespaces/{namespace}/pods"
        labels = {"app": f"s{service}", "version": "v1", "security.istio.io/tlsMode": "istio"}
        spec = {"serviceAccountName": "default", "nodeName": f"node-{replica}", "containers": [{"name": "app", "image": "app"}]}
        self.api.create(path, {"metadata": {"name": name, "labels": labels}, "spec": spec})
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        self.api.merge(f"{path}/{name}/status", {"status": status})

    def proxies(self):
        """Number, service and replica of each proxy."""
        for number in range(self.size.proxies):
            yield number, number % self.size.services, number // self.size.services

    def hellos(self):
        """What each proxy says it is, and its token."""
        for _, service, replica in self.proxies():
            namespace = self.namespace(service)
            workload = f"s{service}-{replica}.{namespace}"
            yield f"sidecar~{self.address(service, replica)}~{workload}~{namespace}.svc.cluster.local {self.tokens[namespace]}"

    def change(self, number):
        """Takes an endpoint that is no proxy's out of service, or puts it back."""
        service = number // 2 % self.size.services
        gone = self.size.endpoints - 1 if number % 2 == 0 else None
        path = f"{SLICES.format(self.namespace(service))}/s{service}"
        self.api.merge(path, {"endpoints": self.slice(service, gone)["endpoints"]})

    def rule(self):
        """A rule for one host, which only its own namespace sees."""
        spec = {"host": "s0", "exportTo": ["."], "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 7}}}}
        self.api.create(RULES.format("n0"), {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
                                             "metadata": {"name": "s0"}, "spec": spec})
        return sum(1 for _, service, _ in self.proxies() if self.namespace(service) == "n0")


def definition(api, kind, plural):
    """A kind of Istio's that takes anything."""
    version = {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
               "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {
        "metadata": {"name": f"{plural}.networking.istio.io"},
        "spec": {"group": "networking.istio.io", "scope": "Namespaced", "versions": [version],
                 "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}}})


class Proxies:
    """The process of the simulated proxies."""

    def __init__(self, program):
        self.process = subprocess.Popen([program, f"127.0.0.1:{XDS}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, *lines):
        self.process.stdin.writelines(line + "\n" for line in lines)
        self.process.stdin.flush()

    def report(self):
        self.say("report")
        report = json.loads(self.process.stdout.readline())
        if "error" in report:
            sys.exit(report["error"])
        return report

    def quiet(self, seconds):
        """The report once nothing has come for some time."""
        last, since = None, time.monotonic()
        while time.monotonic() - since < seconds:
            time.sleep(0.1)
            report = self.report()
            if report != last:
                last, since = report, time.monotonic()
        return last

    def acknowledged(self, count, seconds=60):
        """The report once so many have acknowledged something."""
        end = time.monotonic() + seconds
        while True:
            report = self.report()
            if len(report["acknowledged"]) >= count:
                return report
            if time.monotonic() > end:
                sys.exit(f"only {len(report['acknowledged'])} of {count} proxies were reached")
            time.sleep(0.05)


def measure(chosen, mesh, folder):
    command = [chosen.malla or chosen.target / "malla", "control", "--bind", "127.0.0.1", "--log-level", "warn"]
    environment = {"KUBECONFIG": str(mesh.api.kubeconfig), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    begun = time.monotonic()
    with lab.running(command, XDS, env=environment, stderr=None) as control:
        ready(control)
        started = time.monotonic() - begun
        pid, empty = control.pid, lab.pss(control.pid)
        proxies = Proxies(chosen.target / "examples" / "proxies")
        try:
            figures(chosen, mesh, proxies, pid, empty, started)
        finally:
            lab.stop(proxies.process)


def ready(control):
    end = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{DEBUG}/ready", timeout=5).close()
            return
        except OSError:
            if control.poll() is not None or time.monotonic() > end:
                sys.exit("the control plane did not become ready")
            time.sleep(0.05)


def figures(chosen, mesh, proxies, pid, empty, started):
    rows = [["from start to ready", f"{started:.2f} s"], ["memory before the first proxy (PSS)", f"{empty:.0f} MiB"]]
    spent, begun = lab.cpu(pid), time.time()
    proxies.say(*mesh.hellos())
    proxies.acknowledged(chosen.proxies, 600)
    first = proxies.quiet(3)
    rows += [
        ["first push to all: last acknowledgement", f"{max(first['acknowledged']) / 1e6 - begun:.2f} s"],
        ["first push to all: CPU", f"{lab.cpu(pid) - spent:.2f} s"],
        *counted("first push to all", first),
        ["memory per proxy (PSS)", f"{(lab.pss(pid) - empty) / chosen.proxies * 1024:.0f} KiB"],
    ]
    latencies, lasts, costs = [], [], []
    for number in range(chosen.changes):
        # A single change after a quiet time.
        time.sleep(0.5)
        proxies.say("mark")
        spent, begun = lab.cpu(pid), time.time()
        mesh.change(number)
        report = proxies.acknowledged(chosen.proxies)
        taken = [at / 1e3 - begun * 1e3 for at in report["acknowledged"]]
        costs.append((lab.cpu(pid) - spent) * 1e3)
        latencies += taken
        lasts.append(max(taken))
    latencies.sort()
    rows += [
        ["one endpoint: until a proxy has acknowledged, p50", f"{at(latencies, 0.5):.0f} ms"],
        ["one endpoint: the same, p99", f"{at(latencies, 0.99):.0f} ms"],
        ["one endpoint: until the last has, median and worst", f"{at(sorted(lasts), 0.5):.0f}, {max(lasts):.0f} ms"],
        ["one endpoint: CPU", f"{at(sorted(costs), 0.5):.0f} ms"],
        *counted("one endpoint", report),
    ]
    time.sleep(0.5)
    proxies.say("mark")
    users = mesh.rule()
    proxies.acknowledged(users)
    report = proxies.quiet(2)
    rows += [
        ["rule for one host: proxies that may use it, that were sent anything", f"{users}, {len(report['acknowledged'])}"],
        *counted("rule for one host", report),
        ["memory of the whole process (PSS)", f"{lab.pss(pid):.0f} MiB"],
    ]
    lab.table([f"{chosen.services} services x {chosen.endpoints}, {chosen.proxies} proxies, {chosen.namespaces} namespaces", ""], rows)


def at(values, share):
    """The value that this share of them is not above; they are sorted."""
    return values[min(len(values) - 1, int(len(values) * share))]


def counted(what, report):
    """Rows of what was sent, by type."""
    for kind in KINDS:
        if kind in report["types"]:
            responses, resources, size = report["types"][kind]
            yield [f"{what}: {kind}s", f"{responses} responses, {resources} resources, {size / 1e6:.1f} MB"]


if __name__ == "__main__":
    main()
