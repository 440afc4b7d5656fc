#!/usr/bin/env python3
"""The data plane beside its peers, one worker each, the same Envoy YAML and load, in interleaved rounds; medians.

Scenarios: gateway (one HTTP/1.1 hop), pair-h1 and pair-h2 (two sidecars, mutual TLS between them), tcp (one hop).
Needs a build (`cargo build --profile dist -p malla`), nginx, haproxy, openssl, oha and Envoy (MALLA_ENVOY). Compare ratios of one run only.
"""
import argparse
import contextlib
import pathlib
import statistics
import tempfile

import lab

SCENARIOS = {
    "gateway": ([("gateway.yaml", lab.GATEWAY)], ["malla", "envoy", "haproxy", "direct"]),
    "pair-h1": ([("inbound.yaml", lab.INBOUND), ("outbound-h1.yaml", lab.OUTBOUND)], ["malla", "envoy"]),
    "pair-h2": ([("inbound.yaml", lab.INBOUND), ("outbound-h2.yaml", lab.OUTBOUND)], ["malla", "envoy"]),
    "tcp": ([("tcp.yaml", lab.TCP)], ["malla", "envoy", "haproxy"]),
}
HEAD = ["", "CPU us/req", "at peak", "p50 ms", "p99 ms", "p99.9 ms", "peak req/s", "PSS MiB"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("scenarios", nargs="*", default=list(SCENARIOS), help=f"of {', '.join(SCENARIOS)}")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=int, default=6, help="of each load")
    arguments.add_argument("--rate", type=int, default=3000, help="requests a second of the first load")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)  # nginx's worker may be another user.
        lab.certificates(folder)
        with lab.backend(folder):
            for scenario in chosen.scenarios:
                report(scenario, *compare(scenario, folder, chosen))


def compare(scenario, folder, chosen):
    configs, names = SCENARIOS[scenario]
    figures = {name: [] for name in names}
    for _ in range(chosen.rounds):
        for name in names:
            figures[name].append(measure(name, configs, folder, chosen))
    return names, {name: [statistics.median(column) for column in zip(*rows)] for name, rows in figures.items()}


def measure(name, configs, folder, chosen):
    """One round of one proxy, in the order of HEAD."""
    with contextlib.ExitStack() as stack:
        started = [] if name == "direct" else stack.enter_context(lab.proxies(name, configs, folder))
        port = lab.BACKEND if name == "direct" else configs[-1][1]
        used = lambda: sum(lab.cpu(process.pid) for process in started)
        lab.oha(port, 1, 32)
        before = used()
        served, p50, p99, p999, _ = lab.oha(port, chosen.seconds, 32, chosen.rate)
        steady = (used() - before) / served * 1e6
        before = used()
        served, *_, peak = lab.oha(port, chosen.seconds, 64)
        full = (used() - before) / served * 1e6
        return steady, full, p50, p99, p999, peak, sum(lab.pss(process.pid) for process in started)


def report(scenario, names, figures):
    digits = [1, 1, 2, 2, 2, 0, 1]
    rows = [[name, *(f"{value:.{places}f}" for value, places in zip(figures[name], digits))] for name in names]
    for peer in names[1:]:
        if peer != "direct":
            ratios = (mine / theirs for mine, theirs in zip(figures["malla"], figures[peer]))
            rows.append([f"malla / {peer}", *(f"{ratio:.2f}" for ratio in ratios)])
    lab.table([scenario, *HEAD[1:]], rows)


if __name__ == "__main__":
    main()
