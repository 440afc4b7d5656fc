//! As `console.rs`, with stock Envoy as the data plane: its metrics are derived from its access logs.

mod observe;

#[test]
fn the_console_tells_the_truth_about_stock_envoys() {
    let envoy = std::env::var("MALLA_ENVOY")
        .expect("MALLA_ENVOY names the envoy program (scripts/setup.sh)");
    observe::run(
        "console-envoy",
        &["--proxy", "envoy", "--envoy-path", &envoy],
    );
}
