"""What the benchmarks share: where programs are, processes and their cost, a backend, certificates, load."""
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time

BACKEND, GATEWAY, OUTBOUND, INBOUND, TCP = 18080, 18081, 18082, 18083, 18084
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))) / "malla"
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", CACHE / "target")) / "dist"
ENVOY = os.environ.get("MALLA_ENVOY", str(CACHE / "tools" / "bin" / "envoy"))
OHA = shutil.which("oha") or str(CACHE / "tools" / "bin" / "oha")
CONFIGS = pathlib.Path(__file__).parent / "envoy"

NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; sendfile on; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder}; client_max_body_size 1g;
  server {{ listen 127.0.0.1:{port} backlog=4096; listen 127.0.0.2:{port}; root {folder}; location = / {{ return 200 "{body}"; }} }}
}}
"""
HAPROXY = """
global
  nbthread 1
defaults
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  http-reuse always
listen gateway
  mode http
  bind 127.0.0.1:{gateway}
  server backend 127.0.0.1:{backend}
listen tcp
  mode tcp
  bind 127.0.0.1:{tcp}
  server backend 127.0.0.1:{backend}
"""


def command(name, file):
    """How a proxy is started on a configuration file, with one worker."""
    return {
        "malla": [TARGET / "malla", "proxy", "-c", file, "--concurrency", "1", "-l", "warning"],
        "envoy": [ENVOY, "-c", file, "--concurrency", "1", "-l", "off", "--use-dynamic-base-id"],
        "haproxy": ["haproxy", "-db", "-q", "-f", file],
    }[name]


def wait_for(port, process, seconds=60):
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                sys.exit(f"nothing listens on port {port}")
            time.sleep(0.001)


def cpu(pid):
    """User and system time of a process, in seconds, to the nanosecond: the kernel's own count."""
    return sum(int(path.read_text().split()[0]) for path in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def pss(pid):
    """Proportional set size in MiB."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+) kB", text, re.M).group(1)) / 1024


def stop(process):
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running(arguments, port, **options):
    """A process that listens on `port` for as long as the block lasts."""
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options
    process = subprocess.Popen([str(argument) for argument in arguments], **options)
    try:
        wait_for(port, process)
        yield process
    finally:
        stop(process)


@contextlib.contextmanager
def backend(folder):
    """nginx with one worker: 1 KiB at /, and whatever files are in `folder`. Yields nothing; its cost is its own."""
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=BACKEND, body="x" * 1024))
    with running(["nginx", "-c", config, "-p", folder], BACKEND):
        yield


@contextlib.contextmanager
def proxies(name, configs, folder, changed=lambda text: text):
    """Starts one process of `name` for each (file, port); yields the processes."""
    with contextlib.ExitStack() as stack:
        started = []
        for file, port in configs:
            text = (CONFIGS / file).read_text() if name != "haproxy" else HAPROXY.format(gateway=GATEWAY, tcp=TCP, backend=BACKEND)
            path = folder / f"{name}-{file}"
            path.write_text(changed(text.replace("CERTS", str(folder))))
            started.append(stack.enter_context(running(command(name, path), port)))
        yield started


def certificates(folder):
    """ca, client and server of one mesh: P-256, SPIFFE names."""
    def openssl(*arguments, **options):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, **options)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/O=bench",
            "-addext", "keyUsage=critical,keyCertSign")
    for name in ["client", "server"]:
        (folder / "ext").write_text(f"subjectAltName=URI:spiffe://cluster.local/ns/base/sa/{name}\n"
                                    "keyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth,serverAuth\n")
        openssl("req", "-new", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/O=bench")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "ext", "-out", f"{name}.pem")


def oha(port, seconds, connections, rate=None, path="/"):
    """Runs HTTP/1.1 load; (requests served, p50, p99, p99.9 in ms, requests a second). Any failure ends the run."""
    arguments = [OHA, "--no-tui", "--output-format", "json", "-z", f"{seconds}s", "-c", str(connections)]
    if rate:
        arguments += ["-q", str(rate), "--latency-correction"]
    said = subprocess.run([*arguments, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=True)
    report = json.loads(said.stdout)
    served = report["statusCodeDistribution"].get("200", 0)
    others = {code: count for code, count in report["statusCodeDistribution"].items() if code != "200"}
    # What is still under way when time is over is not a failure.
    errors = {text: count for text, count in report["errorDistribution"].items() if "deadline" not in text}
    if not served or others or errors:
        sys.exit(f"not every request succeeded: {others} {errors}")
    times = report["latencyPercentiles"]
    return served, *(times[key] * 1000 for key in ["p50", "p99", "p99.9"]), report["summary"]["requestsPerSec"]


def compare(head, cases, rounds, measure):
    """Prints what `measure(proxy, case)` comes to for Malla and Envoy in turn, the medians of rounds, and their ratio."""
    rows = []
    for title, case in cases.items():
        figures = {"malla": [], "envoy": []}
        for _ in range(rounds):
            for name, measured in figures.items():
                measured.append(measure(name, case))
        mine, theirs = (statistics.median(figures[name]) for name in ["malla", "envoy"])
        rows.append([title, f"{mine:.1f}", f"{theirs:.1f}", f"{mine / theirs:.2f}"])
    table([head, "malla", "envoy", "ratio"], rows)


def table(head, rows):
    """Prints rows under their head; the first column to the left, figures to the right."""
    widths = [max(len(str(row[at])) for row in [head, *rows]) for at in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(str(value).ljust(width) if at == 0 else str(value).rjust(width)
                        for at, (value, width) in enumerate(zip(row, widths))))
    print()
