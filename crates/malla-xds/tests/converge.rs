//! Client and server, joined by a link that loses connections with everything on it, always end up
//! with the same resources, in both variants; and on the way there no route points to a cluster that
//! the client does not have.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

#[path = "converge/told.rs"]
mod told;
#[path = "converge/world.rs"]
mod world;

use malla_xds::Variant;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use world::{Step, World};

/// Names per type; few, so that they collide.
const NAMES: u8 = 5;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..NAMES, any::<u8>()).prop_map(|(name, value)| Step::PutCluster { name, value }),
        2 => (0..NAMES).prop_map(|name| Step::RemoveCluster { name }),
        3 => (0..NAMES, any::<u8>()).prop_map(|(name, value)| Step::PutEndpoints { name, value }),
        3 => (0..NAMES, 0..NAMES).prop_map(|(name, cluster)| Step::PutRoute { name, cluster }),
        2 => (0..NAMES).prop_map(|name| Step::RemoveRoute { name }),
        6 => Just(Step::Publish),
        12 => (0..4usize).prop_map(|count| Step::ToServer { count }),
        12 => (0..4usize).prop_map(|count| Step::ToClient { count }),
        3 => Just(Step::Cut),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn delta_converges(steps in steps(), reject in any::<bool>(), told in any::<bool>()) {
        World::new(Variant::Delta, reject, told).run(&steps);
    }

    #[test]
    fn sotw_converges(steps in steps(), reject in any::<bool>(), told in any::<bool>()) {
        World::new(Variant::Sotw, reject, told).run(&steps);
    }
}
