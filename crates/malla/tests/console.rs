//! The console of a running demo: what it says agrees with who sent the requests, with Debian's
//! Prometheus, and with what OpenTelemetry's Python SDK sent.

mod observe;

#[test]
fn the_console_tells_the_truth_about_mallas_proxies() {
    observe::run("console", &[]);
}
