#!/usr/bin/env python3
"""Runs a real istiod on Malla's cluster and Malla wherever istiod's injector wants its own proxy.

    tests/istiod/build                                  # once: istiod and istioctl
    tests/istiod/run.py --malla PATH [--quickstart DIR] [--record]

Checks that nothing istiod sends is refused, that requests go through the mesh and the gateway, that istioctl reads the
proxies, and that a killed istiod changes nothing for traffic. `--record` keeps what istiod sent in recorded.json, which
`cargo test -p malla-proxy-config istiod` reads without istiod. Needs root, kubectl and PyYAML.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import yaml

HERE = pathlib.Path(__file__).resolve().parent
TOOLS = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "malla/tools/bin"
SHOP = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = f"{self.path}\\n{self.headers}".encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    do_POST = do_GET
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 7000), Answer).serve_forever()
"""
ROLES = {"client": ("test", "client"), "order": ("base", "order-v1"), "user": ("base", "user"), "gateway": ("istio-system", "istio-ingressgateway")}


class Mesh:
    def __init__(self, malla, folder):
        self.malla, self.folder, self.failures = malla, folder, []
        self.kubeconfig = folder / "data/kubeconfig"
        log = open(folder / "local.log", "w")
        self.cluster = subprocess.Popen([malla, "local", "up", "--data", folder / "data", "--ready-file", folder / "ready"], stdout=log, stderr=log)
        self.until("the cluster", (folder / "ready").exists)

    def kubectl(self, *args, stdin=None, check=True):
        done = subprocess.run(["kubectl", "--kubeconfig", self.kubeconfig, *args], input=stdin, capture_output=True, text=True)
        if check and done.returncode:
            raise SystemExit(f"kubectl {' '.join(map(str, args))}: {done.stderr}")
        return done.stdout

    def apply(self, docs):
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(docs))

    def image(self, name, *command):
        subprocess.run([self.malla, "local", "image", "add", name, "--data", self.folder / "data", "--", *map(str, command)], check=True)

    def until(self, what, condition, limit=180):
        end = time.monotonic() + limit
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"waited in vain for {what}")
            time.sleep(0.5)

    def check(self, what, good, details=""):
        print(f"{'ok  ' if good else 'FAIL'} {what}" + ("" if good else f"\n{details}"), flush=True)
        if not good:
            self.failures.append(what)

    def ready(self):
        pods = json.loads(self.kubectl("get", "pods", "-A", "-o", "json"))["items"]
        ready = [all(c["ready"] for c in p.get("status", {}).get("containerStatuses", [{"ready": False}])) for p in pods]
        return ready and all(ready)

    def pod(self, role):
        namespace, start = ROLES[role]
        names = self.kubectl("-n", namespace, "get", "pods", "-o", "name").split()
        return namespace, next(name for name in names if name.startswith(f"pod/{start}"))

    def inside(self, role, *command, container="istio-proxy"):
        namespace, pod = self.pod(role)
        return self.kubectl("-n", namespace, "exec", pod, "-c", container, "--", *command, check=False)

    def refusals(self):
        found = set()
        for role in ROLES:
            dump = json.loads(self.inside(role, "curl", "-s", "127.0.0.1:15000/config_dump"))
            for section in dump["configs"]:
                for entry in (e for v in section.values() if isinstance(v, list) for e in v):
                    # World's certificates in files are not there: each is told, and nothing is refused for that.
                    if "error_state" in entry and "cannot read /etc/certs/" not in entry["error_state"]["details"]:
                        found.add(f"{role}: {entry['error_state']['details']}")
        return sorted(found)

    def ask(self, host, path="/", more=()):
        # As the application, whose requests the sidecar captures; not those of its own user.
        command = ["curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", *more, f"http://{host}{path}"]
        return self.inside("client", *command, container="client")


def bring_up(mesh):
    mesh.image("ccr.ccs.tencentyun.com/tcm-demo/*", "python3", "-c", SHOP)
    mesh.image("istio/pilot:*", TOOLS / "pilot-discovery")
    mesh.image("istio/proxyv2:*", mesh.malla)
    mesh.kubectl("apply", "-f", str(HERE / "ingress.yaml"))
    mesh.kubectl("create", "namespace", "istio-system")
    manifests = (TOOLS / "istio-manifests").read_text().strip()
    sets = ["profile=default", "hub=istio", "tag=real", "meshConfig.ingressControllerMode=OFF"]
    command = [TOOLS / "istioctl", "manifest", "generate", "-d", manifests] + [f"--set={one}" for one in sets]
    docs = [d for d in yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout) if d]
    for doc in docs:
        name = doc["metadata"]["name"]
        if doc["kind"] == "Deployment":
            # Images run as users of their own, which a process of this machine does not know of.
            for container in doc["spec"]["template"]["spec"]["containers"]:
                container.setdefault("securityContext", {}).update(runAsUser=1337, runAsGroup=1337)
        if doc["kind"] == "ConfigMap" and name == "istio":
            settings = yaml.safe_load(doc["data"]["mesh"])
            settings["extensionProviders"] = yaml.safe_load((HERE / "mesh.yaml").read_text())
            doc["data"]["mesh"] = yaml.safe_dump(settings)
    mesh.apply(d for d in docs if d["kind"] != "HorizontalPodAutoscaler")
    mesh.until("istiod and the gateway", mesh.ready)


def quickstart(mesh, folder):
    files = [f for f in sorted(folder.glob("*.yaml")) if "step15" not in f.name]
    docs = {f: [d for d in yaml.safe_load_all(f.read_text()) if d] for f in files}
    for doc in (d for f in files for d in docs[f]):
        if doc["kind"] == "Namespace":
            doc["metadata"]["labels"] = {"istio-injection": "enabled"}
        if doc["kind"] == "Deployment":
            doc["spec"]["replicas"] = 1
    workloads = [d for f in files for d in docs[f] if "istio.io" not in d["apiVersion"]]
    mesh.apply(workloads)
    mesh.until("the shop with its sidecars", lambda: mesh.ready() and mesh.inside("client", "curl", "-s", "127.0.0.1:15000/ready").startswith("LIVE"))
    mesh.check("default configuration", not mesh.refusals(), mesh.refusals())
    mesh.check("a request through the mesh", mesh.ask("user.base:7000") == "200")
    for f in files:
        rules = [d for d in docs[f] if "istio.io" in d["apiVersion"]]
        if rules:
            mesh.apply(rules)
            time.sleep(2)
            mesh.check(f.name, not mesh.refusals(), mesh.refusals())
    mesh.until("step18 to deny the namespace", lambda: mesh.ask("user.base:7000") == "403")
    mesh.kubectl("-n", "base", "delete", "authorizationpolicy", "base-authz")
    mesh.until("that to end", lambda: mesh.ask("user.base:7000") == "200")


def everything_else(mesh):
    for f in sorted((HERE / "world").glob("*.yaml")):
        mesh.kubectl("apply", "-f", str(f))
        time.sleep(4)
        mesh.check(f.name, not mesh.refusals(), "\n".join(mesh.refusals()))


def istioctl(mesh):
    for role in ROLES:
        for page, kinds in {"config_dump?include_eds": ["cluster", "listener", "route", "secret", "bootstrap", "eds", "all"], "clusters?format=json": ["endpoint"]}.items():
            file = mesh.folder / "page.json"
            file.write_text(mesh.inside(role, "curl", "-s", f"127.0.0.1:15000/{page}"))
            for kind in kinds:
                done = subprocess.run([TOOLS / "istioctl", "proxy-config", kind, "--file", file], capture_output=True, text=True)
                good = done.returncode == 0 and len(done.stdout.splitlines()) > 1
                mesh.check(f"istioctl proxy-config {kind} of {role}", good, done.stdout + done.stderr)


def kill_9(mesh):
    """SIGKILL for istiod's process, wherever it is among the cluster's."""
    killed = 0
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            program, above = os.readlink(process / "exe"), process
            while above.name not in ("0", "1", str(mesh.cluster.pid)):
                above = pathlib.Path("/proc") / (above / "stat").read_text().rsplit(")", 1)[1].split()[1]
        except OSError:
            continue
        if pathlib.Path(program).name == "pilot-discovery" and above.name == str(mesh.cluster.pid):
            os.kill(int(process.name), signal.SIGKILL)
            killed += 1
    mesh.check("istiod was running", killed == 1, killed)


def churn(mesh):
    """What counts changes of clusters and listeners, and connections that were made to end."""
    names = "cluster_added|cluster_modified|cluster_removed|listener_added|listener_modified|listener_removed|listeners_draining|drain_close|lds.update_success|cds.update_success"
    return {role: mesh.inside(role, "curl", "-s", f"127.0.0.1:15000/stats?filter={names}").splitlines() for role in ROLES}


def killed(mesh):
    connected = lambda: "connected_state: 1" in mesh.inside("client", "curl", "-s", "127.0.0.1:15000/stats?filter=control_plane.connected")
    mesh.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(answer(201)))
    mesh.until("the route", lambda: mesh.ask("user.base:7000", "/own") == "201")
    time.sleep(5)
    before = churn(mesh)
    kill_9(mesh)
    mesh.kubectl("-n", "istio-system", "scale", "deployment", "istiod", "--replicas", "0")
    mesh.kubectl("-n", "istio-system", "delete", "pod", "-l", "app=istiod", "--force", "--grace-period=0", check=False)
    mesh.until("istiod's end", lambda: "istiod" not in mesh.kubectl("-n", "istio-system", "get", "pods"))
    mesh.until("the proxies to notice", lambda: not connected())
    codes = [mesh.ask("product.base:7000", "/product") for _ in range(20)]
    mesh.check("without istiod, traffic goes on", set(codes) == {"200"}, codes)
    mesh.check("without istiod, nothing changes", churn(mesh) == before, (before, churn(mesh)))
    mesh.kubectl("-n", "istio-system", "scale", "deployment", "istiod", "--replicas", "1")
    mesh.until("istiod to be back", lambda: mesh.ready() and connected())
    mesh.check("proxies are back", not mesh.refusals(), mesh.refusals())
    mesh.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(answer(418)))
    mesh.until("a change to arrive", lambda: mesh.ask("user.base:7000", "/own") == "418")
    mesh.check("traffic goes on", mesh.ask("product.base:7000", "/product") == "200")


def answer(status):
    """A path that the caller's own proxy answers for."""
    user = "user.base.svc.cluster.local"
    own = {"match": [{"uri": {"exact": "/own"}}], "directResponse": {"status": status}}
    spec = {"hosts": [user], "http": [own, {"route": [{"destination": {"host": user}}]}]}
    return {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "own", "namespace": "base"}, "spec": spec}


def record(mesh):
    fields = {"dynamic_active_clusters": "cluster", "dynamic_listeners": "listener", "dynamic_route_configs": "route_config"}
    # Of resources that several proxies have, the one with the most in it; of inbound listeners all.
    found = {}
    for role in ROLES:
        dump = json.loads(mesh.inside(role, "curl", "-s", "127.0.0.1:15000/config_dump"))
        for section in dump["configs"]:
            for field, item in fields.items():
                for entry in section.get(field, []):
                    resource = entry.get("active_state", entry).get(item)
                    if not resource:
                        continue
                    text = json.dumps(resource, sort_keys=True, separators=(",", ":"))
                    key = (resource["@type"], resource["name"], role if resource["name"] == "virtualInbound" else "")
                    found[key] = max(found.get(key, ""), text, key=len)
    (HERE / "recorded.json").write_text("[\n" + ",\n".join(sorted(found.values())) + "\n]\n")
    print(f"     recorded {len(found)} resources")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--malla", default=shutil.which("malla"), help="the binary")
    parser.add_argument("--quickstart", type=pathlib.Path, help="a folder of the quickstart's files")
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="malla-istiod-"))
    folder.chmod(0o755)
    mesh = Mesh(pathlib.Path(args.malla).resolve(), folder)
    try:
        bring_up(mesh)
        if args.quickstart:
            quickstart(mesh, args.quickstart)
        istioctl(mesh)
        everything_else(mesh)
        if args.record:
            record(mesh)
        killed(mesh)
    finally:
        mesh.cluster.send_signal(signal.SIGINT)
        mesh.cluster.wait(timeout=60)
    print(f"{len(mesh.failures)} failed")
    sys.exit(bool(mesh.failures))


if __name__ == "__main__":
    main()
