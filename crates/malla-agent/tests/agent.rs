//! The agent beside a real Envoy: certificate, secrets, configuration through the relay, readiness,
//! probes, metrics, rotation, and the end.
//!
//! Envoy is found by `MALLA_ENVOY`, or as `envoy` on the path. Without it the tests fail.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

#[path = "agent/plane.rs"]
mod plane;
#[path = "agent/pod.rs"]
mod pod;

use std::net::SocketAddr;
use std::time::Duration;

use malla_agent::{Exit, wait_until_ready};
use malla_runtime::ready::Readiness;
use malla_xds::TypeUrl;
use malla_xds::client::{AdsClient, ClientConfig, Interest, ResourceHandler, Update, Verdict};
use malla_xds_proto::type_url::LISTENER;
use tokio::sync::{mpsc, oneshot};

use plane::Plane;
use pod::Pod;

#[tokio::test]
async fn envoy_joins_the_mesh_lives_and_leaves() {
    let plane = Plane::start().await;
    let pod = Pod::new(&plane);
    plane.serve(&pod);
    let agent = pod.start();
    let pid = agent.pid();
    let identity = agent.identity().source.clone();
    let renew = agent.identity();
    pod.is_ready().await;
    assert_eq!(
        plane.who_connected(),
        [pod.identity()],
        "the relay shows our certificate"
    );

    // Mutual TLS with the secrets from the agent.
    let first = pod.call_over_mutual_tls(&plane).await.unwrap();
    assert_eq!(first.body, "over mutual TLS");
    let serial = identity.credential().unwrap().serial().to_owned();
    assert_eq!(first.serial, serial);

    // Renewed while it runs.
    renew.renew();
    pod::until("the renewed certificate is shown", async || {
        let call = pod.call_over_mutual_tls(&plane).await;
        call.is_ok_and(|call| call.serial != serial)
    })
    .await;
    assert_eq!(agent.pid(), pid);

    let metrics = pod
        .get(pod.ports.agent, "/stats/prometheus")
        .await
        .unwrap()
        .1;
    assert!(metrics.contains("envoy_server_live{} 1"), "{metrics}");
    assert!(
        metrics.contains("shop_orders_total 7"),
        "the application's own: {metrics}"
    );
    let (code, _) = pod.get(pod.ports.stats, "/stats/prometheus").await.unwrap();
    assert_eq!(code, 200);

    let (code, _) = pod
        .get(pod.ports.agent, "/app-health/cart/readyz")
        .await
        .unwrap();
    assert_eq!(code, 204, "the application's own answer");
    let (code, text) = pod
        .get(pod.ports.agent, "/app-health/cart/livez")
        .await
        .unwrap();
    assert_eq!(code, 500, "{text}");

    // The end.
    let (_never, shutdown) = oneshot::channel::<()>();
    let running = agent.run(async {
        let _ = shutdown.await;
    });
    let (exit, answer) = tokio::join!(running, pod.post(pod.ports.agent, "/quitquitquit"));
    assert_eq!(answer.unwrap().0, 200);
    assert!(matches!(exit.unwrap(), Exit::Asked));
}

#[tokio::test]
async fn an_envoy_that_dies_takes_the_agent_along() {
    let plane = Plane::start().await;
    let pod = Pod::new(&plane);
    plane.serve(&pod);
    let agent = pod.start();
    pod.is_ready().await;
    let pid = agent.pid().unwrap().to_string();
    let killed = std::process::Command::new("kill")
        .args(["-KILL", &pid])
        .status();
    assert!(killed.unwrap().success());
    let exit = agent.run(std::future::pending()).await.unwrap();
    assert!(matches!(exit, Exit::Envoy(_)));
    assert_eq!(exit.code(), 1);
}

#[tokio::test]
async fn the_control_plane_may_go_and_come_back() {
    let plane = Plane::start().await;
    let pod = Pod::new(&plane);
    plane.serve(&pod);
    let _agent = pod.start();
    pod.is_ready().await;
    plane.disconnect_all();
    assert!(
        pod.call_over_mutual_tls(&plane).await.is_ok(),
        "traffic goes on"
    );
    pod::until("Envoy is connected again", async || {
        plane.who_connected().len() == 2
    })
    .await;
}

struct Listeners(mpsc::UnboundedSender<String>);

impl ResourceHandler for Listeners {
    fn subscriptions(&self) -> Vec<(TypeUrl, Interest)> {
        vec![(LISTENER.into(), Interest::all())]
    }

    fn apply(&mut self, update: Update) -> Verdict {
        for resource in update.resources {
            self.0.send(resource.name.to_string()).unwrap();
        }
        Verdict::default()
    }
}

#[tokio::test]
async fn a_companion_is_all_that_a_proxy_in_process_needs() {
    let plane = Plane::start().await;
    let pod = Pod::new(&plane);
    plane.serve(&pod);
    let mut companion = pod.companion();
    let proxy = Readiness::new();
    let listeners = proxy.gate("listeners");
    companion.serve(proxy);
    let (sender, mut received) = mpsc::unbounded_channel();
    let config = ClientConfig::new(companion.node("1.0"));
    let _client = AdsClient::start(config, companion.transport(), Box::new(Listeners(sender)));
    assert_eq!(received.recv().await.unwrap(), "inbound");
    assert_eq!(plane.who_connected(), [pod.identity()]);

    let (code, text) = pod.get(pod.ports.ready, "/healthz/ready").await.unwrap();
    assert_eq!(
        (code, &*text),
        (503, "not ready, the proxy: waiting for listeners\n")
    );
    let agent = SocketAddr::from(([127, 0, 0, 1], pod.ports.agent));
    let reason = wait_until_ready(agent, Duration::from_millis(300))
        .await
        .unwrap_err();
    assert!(reason.contains("waiting for listeners"), "{reason}");
    listeners.open();
    wait_until_ready(agent, Duration::from_secs(20))
        .await
        .unwrap();
    let (code, text) = pod.get(pod.ports.stats, "/stats/prometheus").await.unwrap();
    assert_eq!(code, 200);
    assert!(text.contains("shop_orders_total 7"), "{text}");
    let (quit, answer) = tokio::join!(companion.quit(), pod.post(pod.ports.agent, "/quitquitquit"));
    assert_eq!((quit, answer.unwrap().0), ((), 200));
}

#[test]
fn an_envoy_that_cannot_run_is_named() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let plane = Plane::start().await;
        let pod = Pod::new(&plane);
        let error = pod.start_program("/nowhere/envoy").unwrap_err();
        assert!(
            error.to_string().contains("cannot run \"/nowhere/envoy\""),
            "{error}"
        );
    });
}
