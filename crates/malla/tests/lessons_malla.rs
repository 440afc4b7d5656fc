//! The lessons, end to end, with Malla's own proxy as the data plane.

mod lessons;

#[test]
fn the_lessons_are_true_with_mallas_proxy() {
    lessons::run("malla", &[]);
}
