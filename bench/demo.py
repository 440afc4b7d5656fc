#!/usr/bin/env python3
"""Figures of the demo: start, memory, and how soon a rule acts. Arguments go to `malla demo`."""
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROUNDS = 20


def target():
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    folder = os.environ.get("CARGO_TARGET_DIR", f"{cache}/malla/target")
    return pathlib.Path(folder) / "release" / "malla"


def wait(path, process, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None or time.monotonic() > end:
            sys.exit("the demo did not become ready")
        time.sleep(0.01)


def pss(pid):
    """Proportional set size in MiB; 0 when the process has gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return int(re.search(r"^Pss:\s+(\d+) kB", text, re.M).group(1)) / 1024


def tree(pid):
    """A process and all that descend from it."""
    found, children = [pid], {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    for one in found:
        found.extend(children.get(one, []))
    return found


def command(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


RULE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: bench, namespace: base}}
spec:
  hosts: [product.base.svc.cluster.local]
  http:
    - route: [{{destination: {{host: product.base.svc.cluster.local}}}}]
      headers: {{response: {{set: {{x-round: "{round}"}}}}}}
"""


def round_of(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.headers.get("x-round")


def apply_rounds(ready):
    environment = dict(os.environ, KUBECONFIG=ready["clusters"][0]["kubeconfig"])
    url = ready["shop"] + "product"
    acted, applied, acknowledged = [], [], []
    for number in range(ROUNDS):
        started = time.monotonic()
        subprocess.run(["kubectl", "apply", "-f", "-"], input=RULE.format(round=number).encode(), env=environment, check=True, stdout=subprocess.DEVNULL)
        applied.append(time.monotonic() - started)
        while round_of(url) != str(number):
            time.sleep(0.002)
        acted.append(time.monotonic() - started - applied[-1])
        for _ in range(100):
            text = subprocess.run(["kubectl", "-n", "base", "get", "virtualservice", "bench", "-o", "json"], env=environment, check=True, capture_output=True).stdout
            rule = json.loads(text)
            done = [c for c in rule.get("status", {}).get("conditions", []) if c["type"] == "Reconciled" and c["status"] == "True"
                    and str(c.get("observedGeneration")) == str(rule["metadata"]["generation"])]
            if done:
                found = re.search(r"(\d+) ms", done[0]["message"])
                acknowledged.append(int(found.group(1)) if found else 0)
                break
            time.sleep(0.05)
    subprocess.run(["kubectl", "-n", "base", "delete", "virtualservice", "bench"], env=environment, check=True, stdout=subprocess.DEVNULL)
    return applied, acted, acknowledged


def main():
    with tempfile.TemporaryDirectory() as folder:
        ready_file = pathlib.Path(folder) / "ready.json"
        started = time.monotonic()
        process = subprocess.Popen([target(), "demo", "--data", f"{folder}/data", "--ready-file", ready_file, *sys.argv[1:]],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait(ready_file, process)
            took = time.monotonic() - started
            ready = json.loads(ready_file.read_text())
            time.sleep(5)  # what starting needed is given back
            everything = tree(process.pid)
            sidecars = [pid for pid in everything if re.search(r"(^|/)(malla|envoy) .*(proxy (sidecar|gateway)|envoy\.json)", command(pid))]
            sizes = sorted(pss(pid) for pid in sidecars)
            print(f"start to ready                     {took:6.1f} s   (aim 8)")
            print(f"proxies, PSS idle: median          {statistics.median(sizes):6.1f} MiB (aim 10; {len(sizes)} processes, largest {sizes[-1]:.1f})")
            print(f"whole demo, PSS                    {sum(map(pss, everything)):6.0f} MiB (aim 400; {len(everything)} processes)")
            applied, acted, acknowledged = apply_rounds(ready)
            print(f"kubectl apply itself, median       {statistics.median(applied) * 1000:6.0f} ms")
            print(f"then until traffic has changed     {statistics.median(acted) * 1000:6.0f} ms")
            if acknowledged:
                print(f"push to last acknowledgement       {statistics.median(acknowledged):6.0f} ms  (aim 100)")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


main()
