#!/usr/bin/env python3
"""What configuration costs: memory, time to start, the price of a request, by number of clusters and routes; and a change.

Each cluster has ten endpoints and five routes of its own; the request goes to a route in the middle. Malla beside Envoy, one
worker each, the same file. Needs a build (`cargo build --profile dist -p malla`), nginx, oha and Envoy (MALLA_ENVOY).
"""
import argparse
import json
import pathlib
import statistics
import tempfile
import time
import urllib.request

import lab

HEAD = ["clusters x endpoints, routes", "start ms", "PSS MiB", "CPU us/req", "at peak"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("sizes", nargs="*", type=int, default=[1, 1000, 10000], help="numbers of clusters")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=int, default=4)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        files = {size: folder / f"{size}.json" for size in chosen.sizes}
        for size, file in files.items():
            file.write_text(json.dumps(configuration(size)))
        with lab.backend(folder):
            rows, medians = [], {}
            for size, file in files.items():
                rounds = {name: [] for name in ["malla", "envoy"]}
                for _ in range(chosen.rounds):
                    for name in rounds:
                        rounds[name].append(measure(name, file, size, chosen.seconds))
                for name, measured in rounds.items():
                    medians[name, size] = [statistics.median(column) for column in zip(*measured)]
                    rows.append([f"{name} {size} x 10, {size * 5}", *(f"{value:.1f}" for value in medians[name, size])])
                ratios = (mine / theirs for mine, theirs in zip(medians["malla", size], medians["envoy", size]))
                rows.append(["malla / envoy", *(f"{ratio:.2f}" for ratio in ratios)])
            lab.table(HEAD, rows)
            changes(folder, chosen.rounds)
        first, last = chosen.sizes[0], chosen.sizes[-1]
        for name in ["malla", "envoy"]:
            grown = medians[name, last][3] / medians[name, first][3]
            print(f"{name}: a request with {last} clusters costs {grown:.2f} times one with {first}")


def measure(name, file, size, seconds):
    """Milliseconds to the first answer, MiB, microseconds of CPU a request at 3,000/s and at peak."""
    begun = time.monotonic()
    with lab.running(lab.command(name, file), lab.GATEWAY):
        path = f"/{size // 2}-2/"
        urllib.request.urlopen(f"http://127.0.0.1:{lab.GATEWAY}{path}").read()
        start = (time.monotonic() - begun) * 1000
    # Once more, without the wait's own noise.
    with lab.running(lab.command(name, file), lab.GATEWAY) as process:
        lab.oha(lab.GATEWAY, 1, 32, path=path)
        before = lab.cpu(process.pid)
        served, *_ = lab.oha(lab.GATEWAY, seconds, 32, 3000, path)
        steady = (lab.cpu(process.pid) - before) / served * 1e6
        before = lab.cpu(process.pid)
        served, *_ = lab.oha(lab.GATEWAY, seconds, 64, path=path)
        return start, lab.pss(process.pid), steady, (lab.cpu(process.pid) - before) / served * 1e6


def changes(folder, rounds):
    """Moves files of 1,000 routes, as protobuf and as JSON, under both proxies."""
    rows = []
    for kind in ["pb", "json"]:
        taken = {name: [] for name in ["malla", "envoy"]}
        for _ in range(rounds):
            for name in taken:
                taken[name] += change(name, folder, kind)
        for at, what in enumerate(["until served", "of CPU"]):
            mine, theirs = (statistics.median(one[at] for one in taken[name]) for name in ["malla", "envoy"])
            rows.append([f"{kind}, ms {what}", f"{mine:.1f}", f"{theirs:.1f}", f"{mine / theirs:.2f}"])
    lab.table(["a change of 1,000 routes", "malla", "envoy", "ratio"], rows)


def change(name, folder, kind, routes=1000, times=5):
    """Milliseconds from the move of a file of routes to the first answer that follows it, and of CPU; several times over."""
    file, bootstrap, taken = folder / f"routes-{name}.{kind}", folder / f"changing-{name}.json", []

    def write(version):
        new = folder / f"new-{name}"
        new.write_bytes(as_pb(version, routes) if kind == "pb" else as_json(version, routes))
        begun = time.monotonic()
        new.rename(file)
        return begun

    write(0)
    configured = configuration(1)
    manager = configured["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["route_config"]
    manager["rds"] = {"route_config_name": "local", "config_source": {
        "path_config_source": {"path": str(file)}, "resource_api_version": "V3"}}
    bootstrap.write_text(json.dumps({"node": {"id": "scale", "cluster": "scale"}, **configured}))
    with lab.running(lab.command(name, bootstrap), lab.GATEWAY) as process:
        for version in range(1, times + 1):
            before = lab.cpu(process.pid)
            begun = write(version)
            while urllib.request.urlopen(f"http://127.0.0.1:{lab.GATEWAY}/{routes - 1}/x").read() != str(version).encode():
                time.sleep(0.005)
            taken.append(((time.monotonic() - begun) * 1000, (lab.cpu(process.pid) - before) * 1000))
    return taken


ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


def as_pb(version, routes):
    """As a control plane sends it: DiscoveryResponse { version_info, resources: [ Any { RouteConfiguration } ] }."""
    table = [pb((1, pb((1, f"/{n}/"))), (7, pb((1, 200), (2, pb((3, f"{version}")))))) for n in range(routes)]
    configured = pb((1, "local"), (2, pb((1, "all"), (2, "*"), *((3, route) for route in table))))
    return pb((1, f"{version}"), (2, pb((1, ROUTES), (2, configured))))


def as_json(version, routes):
    table = [{"match": {"prefix": f"/{n}/"}, "direct_response": {"status": 200, "body": {"inline_string": f"{version}"}}}
             for n in range(routes)]
    configured = {"@type": ROUTES, "name": "local", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": table}]}
    return json.dumps({"version_info": f"{version}", "resources": [configured]}).encode()


def pb(*fields):
    """A protobuf message of (number, value): whole numbers, text, or messages made here."""
    def varint(number):
        return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)

    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def configuration(size):
    """gateway.yaml's listener in front of `size` clusters of ten endpoints, each the same backend."""
    def at(port):
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    def extension(name, kind, **fields):
        return {"name": name, "typed_config": {"@type": f"type.googleapis.com/{kind}", **fields}}

    endpoints = [{"endpoint": {"address": {"socket_address": {"address": f"127.0.0.{last}", "port_value": lab.BACKEND}}}}
                 for last in [1] * 10]
    clusters = [{"name": f"c{n}", "type": "STATIC", "connect_timeout": "1s", "lb_policy": "LEAST_REQUEST",
                 "load_assignment": {"cluster_name": f"c{n}", "endpoints": [{"lb_endpoints": endpoints}]}}
                for n in range(size)]
    routes = [{"match": {"prefix": f"/{n}-{of}/"},
               "route": {"cluster": f"c{n}", "timeout": "0s", "prefix_rewrite": "/"}}
              for n in range(size) for of in range(5)]
    # As Istio groups them: by host; and one host with many routes, where the request goes.
    hosts = [{"name": f"h{n}", "domains": [f"h{n}.base.svc.cluster.local", f"h{n}"],
              "routes": [{"match": {"prefix": "/"}, "route": {"cluster": f"c{n}"}}]} for n in range(size)]
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="gateway", generate_request_id=True,
        route_config={"name": "local", "virtual_hosts": [*hosts, {"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=[extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")])
    return {"static_resources": {
        "listeners": [{"name": "gateway", "address": at(lab.GATEWAY), "filter_chains": [{"filters": [manager]}]}],
        "clusters": clusters}}


if __name__ == "__main__":
    main()
