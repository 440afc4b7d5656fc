//! The whole mesh on one machine: what is brought up, in which order, and how the outside is told.

pub(crate) mod bring_up;
pub(crate) mod home;
pub(crate) mod images;
pub(crate) mod inside;
pub(crate) mod launch;
pub(crate) mod objects;
pub(crate) mod report;

macro_rules! lessons {
    ($($name:literal),* $(,)?) => {
        &[$(include_str!(concat!("../../../demo/lessons/", $name, ".yaml"))),*]
    };
}

/// The lessons' manifests, in order. The demo starts with the first two applied.
pub(crate) const LESSONS: &[&str] = lessons![
    "q00-shop",
    "q01-gateway",
    "q02-order-v2",
    "q03-order-by-cookie",
    "q04-product-half",
    "q05-product-all",
    "q06-stock-delay",
    "q07-order-timeout",
    "q08-cart-affinity",
    "q09-client",
    "q10-user-pool",
    "q14-strict",
    "q15-deny-test",
];

/// Steady traffic from outside of the mesh.
pub(crate) const VISITORS: &str = include_str!("../../../demo/visitors.yaml");
