#!/usr/bin/env python3
"""TLS handshakes, large bodies and gRPC beside Envoy, one worker each, the same Envoy YAML, in interleaved rounds; medians.

Needs a build (`cargo build --profile dist -p malla`), nginx, openssl, curl, nghttpd and h2load (nghttp2) and Envoy (MALLA_ENVOY).
"""
import argparse
import contextlib
import pathlib
import re
import subprocess
import sys
import tempfile

import lab

BODY_MB = 100
GRPC = 18085
PAIR = [("inbound.yaml", lab.INBOUND), ("outbound-h2.yaml", lab.OUTBOUND)]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        lab.certificates(folder)
        (folder / "large").write_bytes(bytes(BODY_MB << 20))
        (folder / "message").write_bytes(b"\0\0\0\0\x7b" + bytes(123))
        with lab.backend(folder):
            lab.compare("", MEASURES, chosen.rounds, lambda name, measure: measure(name, folder))


def spent(processes, action):
    """CPU seconds of the processes during an action, and what it returned."""
    before = sum(lab.cpu(process.pid) for process in processes)
    result = action()
    return sum(lab.cpu(process.pid) for process in processes) - before, result


def handshakes(resumed):
    """CPU microseconds of the server for one handshake with client certificates; TLS 1.3, P-256."""
    def measure(name, folder):
        arguments = ["openssl", "s_time", "-connect", f"127.0.0.1:{lab.INBOUND}", "-time", "4", "-CAfile",
                     "ca.pem", "-cert", "client.pem", "-key", "client.key", "-reuse" if resumed else "-new"]
        with lab.proxies(name, PAIR[:1], folder) as started:
            used, said = spent(started, lambda: subprocess.run(
                arguments, cwd=folder, capture_output=True, text=True, timeout=60).stdout)
        counted = re.findall(r"(\d+) connections in [\d.]+ real seconds", said)
        if not counted or int(counted[-1]) == 0:
            sys.exit(f"no handshake succeeded with {name}: {said}")
        return used / int(counted[-1]) * 1e6
    return measure


def bodies(configs):
    """CPU seconds of the proxies for each GB downloaded."""
    def measure(name, folder):
        url = f"http://127.0.0.1:{configs[-1][1]}/large"
        count = 8
        with lab.proxies(name, configs, folder) as started:
            used, size = spent(started, lambda: subprocess.run(
                ["curl", "-sS", *["-o", "/dev/null", url] * count, "-w", "%{size_download}\n"],
                check=True, capture_output=True, text=True).stdout)
        if size.split() != [str(BODY_MB << 20)] * count:
            sys.exit(f"bodies through {name} came out as {size.split()}")
        return used * 1000 / (count * BODY_MB * (1 << 20) / 1e9)
    return measure


def grpc(name, folder):
    """CPU microseconds of the pair for one unary call, HTTP/2 all the way."""
    def all_h2(text):
        text = text.replace(str(lab.BACKEND), str(GRPC))
        plain = ('    typed_extension_protocol_options:\n      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n'
                 '        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n'
                 '        explicit_http_config: { http2_protocol_options: {} }\n')
        return text if "explicit_http_config" in text else text.rstrip("\n") + "\n" + plain

    calls = 60_000
    load = ["h2load", "-n", str(calls), "-c", "8", "-m", "16", "-d", str(folder / "message"),
            "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{lab.OUTBOUND}/message"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(lab.running(["nghttpd", "--no-tls", "-n1", "-d", folder, "-a", "127.0.0.1", GRPC], GRPC))
        started = stack.enter_context(lab.proxies(name, PAIR, folder, all_h2))
        used, said = spent(started, lambda: subprocess.run(load, check=True, capture_output=True, text=True).stdout)
    if f"{calls} succeeded" not in said:
        sys.exit(f"not every call through {name} succeeded:\n{said}")
    return used / calls * 1e6


MEASURES = {
    "full handshake, CPU us": handshakes(False),
    "resumed handshake, CPU us": handshakes(True),
    "100 MB bodies, gateway, CPU ms/GB": bodies([("gateway.yaml", lab.GATEWAY)]),
    "100 MB bodies, pair, CPU ms/GB": bodies(PAIR),
    "100 MB bodies, TCP, CPU ms/GB": bodies([("tcp.yaml", lab.TCP)]),
    "gRPC unary through the pair, CPU us": grpc,
}

if __name__ == "__main__":
    main()
