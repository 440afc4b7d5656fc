//! Stock Envoy as the client: it is configured by our server, in both variants, serves traffic by
//! it, rejects what is bad, warms what changed, and comes back after a disconnect.
//!
//! Envoy is found by `MALLA_ENVOY`, or as `envoy` on the path. Without it the tests fail.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

#[path = "envoy/peer.rs"]
mod peer;
#[path = "envoy/plane.rs"]
mod plane;

use malla_xds::Variant;
use malla_xds::server::Event;
use malla_xds_proto::type_url::{CLUSTER, LISTENER, ROUTE};

use peer::{Backend, EnvoyPeer};
use plane::{Plane, cluster, endpoints, listener, route_direct, route_to};

async fn serves_and_follows(variant: Variant) {
    let plane = Plane::start().await;
    let port = peer::free_port();
    plane.change("v1", |set| {
        set.put(LISTENER, "web", listener("web", port, "routes"));
        set.put(ROUTE, "routes", route_direct("routes", "one"));
    });
    let envoy = EnvoyPeer::start(&plane.address(), variant).await;
    envoy.answers(port, "one").await;
    plane.settled("v1").await;

    plane.change("v2", |set| {
        set.put(ROUTE, "routes", route_direct("routes", "two"))
    });
    plane.settled("v2").await;
    envoy.answers(port, "two").await;
    let pushes = plane.pushes("v2");
    assert_eq!(pushes, [ROUTE], "only what changed is pushed");
}

#[tokio::test]
async fn envoy_is_configured_by_delta() {
    serves_and_follows(Variant::Delta).await;
}

#[tokio::test]
async fn envoy_is_configured_by_state_of_the_world() {
    serves_and_follows(Variant::Sotw).await;
}

async fn rejects(variant: Variant) {
    let plane = Plane::start().await;
    let port = peer::free_port();
    plane.change("good", |set| {
        set.put(LISTENER, "web", listener("web", port, "routes"));
        set.put(ROUTE, "routes", route_direct("routes", "good"));
    });
    let envoy = EnvoyPeer::start(&plane.address(), variant).await;
    envoy.answers(port, "good").await;

    plane.change("bad", |set| {
        // A listener without an address.
        set.put(
            LISTENER,
            "broken",
            peer::message::<malla_xds_proto::listener::Listener>("name: broken"),
        );
    });
    let Event::Nacked {
        type_url,
        names,
        message,
        ..
    } = plane
        .event(|event| matches!(event, Event::Nacked { .. }))
        .await
    else {
        unreachable!("filtered");
    };
    assert_eq!(type_url.as_str(), LISTENER);
    assert!(message.contains("broken"), "{message}");
    assert_eq!(names, ["broken".into()]);
    envoy.answers(port, "good").await;

    let before = plane.pushes("other").len();
    plane.change("other", |set| {
        set.put(ROUTE, "routes", route_direct("routes", "better"))
    });
    plane.settled("other").await;
    envoy.answers(port, "better").await;
    assert_eq!(before, 0);
    assert_eq!(
        plane.pushes("other"),
        [ROUTE],
        "what was rejected is not pushed again"
    );

    plane.change("fixed", |set| {
        set.put(
            LISTENER,
            "broken",
            listener("broken", peer::free_port(), "routes"),
        );
    });
    plane
        .event(|event| matches!(event, Event::Acked { version, .. } if **version == *"fixed"))
        .await;
}

#[tokio::test]
async fn envoy_rejects_by_delta() {
    rejects(Variant::Delta).await;
}

#[tokio::test]
async fn envoy_rejects_state_of_the_world() {
    rejects(Variant::Sotw).await;
}

/// A changed cluster is warmed: Envoy does not use it, nor acknowledge any further clusters, until it
/// is sent endpoints again.
async fn warms(variant: Variant) {
    let plane = Plane::start().await;
    let backend = Backend::start("from the backend").await;
    let port = peer::free_port();
    plane.change("v1", |set| {
        set.put(CLUSTER, "shop", cluster("shop", 1));
        set.put(
            malla_xds_proto::type_url::ENDPOINTS,
            "shop",
            endpoints("shop", backend.port),
        );
        set.put(LISTENER, "web", listener("web", port, "routes"));
        set.put(ROUTE, "routes", route_to("routes", "shop"));
    });
    let envoy = EnvoyPeer::start(&plane.address(), variant).await;
    envoy.answers(port, "from the backend").await;
    plane.settled("v1").await;
    for round in 2..5 {
        let version = format!("v{round}");
        plane.change(&version, |set| {
            set.put(CLUSTER, "shop", cluster("shop", round))
        });
        plane.settled(&version).await;
        envoy.answers(port, "from the backend").await;
        let shown = envoy
            .admin("/config_dump?resource=dynamic_active_clusters")
            .await;
        assert!(
            shown.contains(&format!("\"connect_timeout\": \"{round}s\"")),
            "{shown}"
        );
        let warming = envoy
            .admin("/config_dump?resource=dynamic_warming_clusters")
            .await;
        assert!(!warming.contains("shop"), "{warming}");
    }
    // Routed elsewhere and removed in one change: at no moment may a request find neither.
    plane.change("gone", |set| {
        set.remove(CLUSTER, "shop");
        set.remove(malla_xds_proto::type_url::ENDPOINTS, "shop");
        set.put(ROUTE, "routes", route_direct("routes", "moved"));
    });
    let mut answers = Vec::new();
    tokio::select! {
        () = plane.settled("gone") => {}
        () = envoy.ask_all_the_time(port, &mut answers) => {}
    }
    let known = ["from the backend", "moved"];
    if variant == Variant::Delta {
        // SotW has no way to send additions first and removals later.
        assert!(
            answers.iter().all(|answer| known.contains(&&**answer)),
            "{answers:?}"
        );
    }
    envoy.answers(port, "moved").await;
    let shown = envoy
        .admin("/config_dump?resource=dynamic_active_clusters")
        .await;
    assert!(!shown.contains("shop"), "{shown}");
}

#[tokio::test]
async fn envoy_warms_by_delta() {
    warms(Variant::Delta).await;
}

#[tokio::test]
async fn envoy_warms_by_state_of_the_world() {
    warms(Variant::Sotw).await;
}

async fn comes_back(variant: Variant) {
    let plane = Plane::start().await;
    let port = peer::free_port();
    plane.change("v1", |set| {
        set.put(LISTENER, "web", listener("web", port, "routes"));
        set.put(ROUTE, "routes", route_direct("routes", "one"));
        for extra in 0..20 {
            let name = format!("idle-{extra}");
            set.put(CLUSTER, &name, plane::cluster_static(&name));
        }
    });
    let envoy = EnvoyPeer::start(&plane.address(), variant).await;
    envoy.answers(port, "one").await;
    plane.settled("v1").await;

    plane.disconnect_all();
    plane.change("v2", |set| {
        set.remove(CLUSTER, "idle-3");
        set.put(ROUTE, "routes", route_direct("routes", "two"));
    });
    plane.settled("v2").await;
    envoy.answers(port, "two").await;
    let clusters = envoy.admin("/clusters").await;
    assert!(
        clusters.contains("idle-4::") && !clusters.contains("idle-3::"),
        "{clusters}"
    );
    if variant == Variant::Delta {
        let resent = plane.resources_pushed("v2", CLUSTER);
        assert_eq!(resent, 0, "clusters that Envoy held were sent again");
    }
}

#[tokio::test]
async fn envoy_comes_back_by_delta() {
    comes_back(Variant::Delta).await;
}

#[tokio::test]
async fn envoy_comes_back_by_state_of_the_world() {
    comes_back(Variant::Sotw).await;
}
