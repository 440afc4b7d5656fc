//! The lessons, end to end, with stock Envoy as the data plane.

mod lessons;

#[test]
fn the_lessons_are_true_with_stock_envoy() {
    let envoy = std::env::var("MALLA_ENVOY")
        .expect("MALLA_ENVOY names the envoy program (scripts/setup.sh)");
    lessons::run("envoy", &["--proxy", "envoy", "--envoy-path", &envoy]);
}
