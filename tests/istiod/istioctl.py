#!/usr/bin/env python3
"""Stock istioctl against a demo of Malla, as root:

    tests/istiod/build                                       # once: istioctl among others
    tests/istiod/istioctl.py --malla PATH [--envoy PATH]     # with --envoy the proxies are stock Envoy
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

TOOLS = pathlib.Path.home() / ".cache/malla/tools/bin"
TYPES = "4 (CDS,LDS,EDS,RDS)"
START = 120
failed = []


def check(what, good, told=""):
    print("ok  " if good else "FAIL", what)
    if not good:
        failed.append(what)
        print(told)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--malla", required=True)
    parser.add_argument("--envoy")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ready = pathlib.Path(folder) / "ready"
        command = [args.malla, "demo", "--ready-file", ready]
        if args.envoy:
            command += ["--proxy", "envoy", "--envoy-path", args.envoy]
        demo = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + START
            while not ready.exists():
                if demo.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the demo does not start")
                time.sleep(0.2)
            kubeconfig = json.loads(ready.read_text())["clusters"][0]["kubeconfig"]
            commands(args.malla, kubeconfig)
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait()
    sys.exit(1 if failed else 0)


def commands(malla, kubeconfig):
    def run(program, *words):
        done = subprocess.run([program, *words, "--kubeconfig", kubeconfig], capture_output=True, text=True)
        return done.stdout + (done.stderr if done.returncode else "")

    def istioctl(*words):
        return run(TOOLS / "istioctl", *words)

    pods = json.loads(run("kubectl", "-n", "base", "get", "pods", "-o", "json"))["items"]
    names = [pod["metadata"]["name"] for pod in pods]
    status = istioctl("proxy-status")
    for name in names:
        lines = [line for line in status.splitlines() if line.startswith(f"{name}.base ")]
        check(f"proxy-status {name}", len(lines) == 1 and lines[0].endswith(TYPES), status)
    same = lambda text: sorted(text.splitlines())
    check("proxy-status, as malla's", same(status) == same(run(malla, "proxy-status")), status)
    verbose = istioctl("proxy-status", "-v", "1")
    check("proxy-status -v 1", verbose.count("SYNCED (") >= 4 * len(names), verbose)
    version = istioctl("version")
    check("version", "control plane version: 0." in version and "data plane version: " in version, version)
    version = istioctl("experimental", "version")
    check("x version", "control plane version: 0." in version, version)
    registry = istioctl("experimental", "internal-debug", "registryz")
    check("x internal-debug registryz", '"hostname": "user.base.svc.cluster.local"' in registry, registry)
    found = istioctl("analyze", "-n", "base")
    check("analyze", "IST" not in found.replace("IST0102", ""), found)
    service = istioctl("experimental", "describe", "svc", "user.base")
    check("x describe svc", "Port: http 7000/HTTP targets pod port 7000" in service, service)
    pod = f"{names[0]}.base"
    described = istioctl("experimental", "describe", "pod", pod)
    check("x describe pod", "Workload mTLS mode: PERMISSIVE" in described, described)
    difference = istioctl("proxy-status", pod)
    match = [f"{what} Match" for what in ("Clusters", "Listeners", "Routes")]
    check("proxy-status POD", [line.split(" (")[0] for line in difference.splitlines()] == match, difference)
    check("proxy-status POD, as malla's", run(malla, "proxy-status", pod).splitlines() == match)
    for what in ("cluster", "listener", "route", "endpoint", "eds", "secret", "ecds"):
        theirs, ours = istioctl("proxy-config", what, pod), run(malla, "proxy-config", what, pod)
        check(f"proxy-config {what}, as malla's", theirs == ours and len(theirs.splitlines()) >= 1, theirs + ours)


if __name__ == "__main__":
    main()
