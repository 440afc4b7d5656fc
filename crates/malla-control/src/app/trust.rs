//! The mesh's trust domain: read once, as the authority and every identity are of it from then on.
//! (istiod reads it once, too; a change takes effect with the next start.)

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use malla_api::lower::mesh_config;
use malla_model::{MeshSettings, TrustDomain};
use tracing::{info, warn};

const RETRY: Duration = Duration::from_secs(1);

/// `trustDomain` of the MeshConfig, `cluster.local` where nothing says otherwise. Waits for the API
/// server: with a guessed trust domain, certificates would be issued that nobody accepts.
pub(super) async fn domain(client: &kube::Client, namespace: &str, name: &str) -> TrustDomain {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = loop {
        match maps.get_opt(name).await {
            Ok(map) => break map,
            Err(error) => warn!(%error, "the MeshConfig cannot be read yet"),
        }
        tokio::time::sleep(RETRY).await;
    };
    let data = map.and_then(|map| map.data).unwrap_or_default();
    let text = data.get("mesh").map(String::as_str).unwrap_or_default();
    let domain = match mesh_config::lower(text, &MeshSettings::default()) {
        Ok(lowered) => lowered.value.trust_domain,
        // The index says what is wrong with it.
        Err(_) => TrustDomain::default(),
    };
    info!(%domain, "the mesh's trust domain");
    domain
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// Of an API server that fails so many times, and then answers this.
    async fn read(failures: usize, status: u16, answer: Value) -> String {
        let asked = Arc::new(AtomicUsize::new(0));
        let server = tower::service_fn(move |_: http::Request<Body>| {
            let fails = asked.fetch_add(1, Ordering::SeqCst) < failures;
            let (status, answer) = match fails {
                true => (
                    500,
                    json!({"kind": "Status", "status": "Failure", "code": 500}),
                ),
                false => (status, answer.clone()),
            };
            let body = Body::from(answer.to_string().into_bytes());
            let response = http::Response::builder().status(status).body(body).unwrap();
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let client = kube::Client::new(server, "default");
        domain(&client, "istio-system", "istio").await.to_string()
    }

    #[tokio::test]
    async fn it_is_the_mesh_configs() {
        let map = |mesh: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio"}, "data": {"mesh": mesh}});
        assert_eq!(
            read(1, 200, map("trustDomain: example.org")).await,
            "example.org"
        );
        assert_eq!(
            read(0, 200, map("accessLogFile: /dev/stdout")).await,
            "cluster.local"
        );
        assert_eq!(read(0, 200, map("[")).await, "cluster.local");
        let gone =
            json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"});
        assert_eq!(read(0, 404, gone).await, "cluster.local");
    }
}
