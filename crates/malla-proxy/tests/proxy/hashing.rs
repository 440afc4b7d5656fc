//! Consistent hashing, choice by choice beside Envoy.
use super::support::{
    Envoy, Running, bootstrap, cluster, echo, free_port, listener, round_trip_from, tcp_proxy,
};

/// The same endpoints and the same clients: Envoy and Malla choose the same endpoint for each client.
async fn check(policy: &str) {
    let mut backends = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        backends.push(echo(name).await);
    }
    let filter = tcp_proxy("hashed", ", hash_policy: [ { source_ip: {} } ]");
    let more = format!("    {policy}\n");
    let yaml = |at| {
        bootstrap(
            &[listener("tcp", at, &filter, "")],
            &[cluster("hashed", &backends, &more)],
        )
    };
    let at = free_port();
    let _envoy = Envoy::start(&yaml(at)).await;
    let (proxy, address) = Running::start(&yaml("127.0.0.1:0".parse().unwrap()), "tcp").await;
    let mut chosen = std::collections::BTreeSet::new();
    for client in 2..40 {
        let source = format!("127.0.0.{client}");
        let by_envoy = round_trip_from(&source, at, "").await;
        let by_malla = round_trip_from(&source, address, "").await;
        assert_eq!(by_malla, by_envoy, "the choice for {source} under {policy}");
        chosen.insert(by_malla);
    }
    assert!(chosen.len() > 3, "clients are spread: {chosen:?}");
    proxy.stop().await;
}

#[tokio::test]
async fn ring_hash_chooses_as_envoy() {
    check("lb_policy: RING_HASH").await;
}

#[tokio::test]
async fn a_small_murmur_ring_chooses_as_envoy() {
    check("lb_policy: RING_HASH\n    ring_hash_lb_config: { minimum_ring_size: 64, hash_function: MURMUR_HASH_2 }").await;
}

#[tokio::test]
async fn maglev_chooses_as_envoy() {
    check("lb_policy: MAGLEV").await;
}
