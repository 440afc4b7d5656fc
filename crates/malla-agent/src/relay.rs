//! Envoy's way to the control plane: a Unix socket whose connections become mutual TLS.
//!
//! The bytes are HTTP/2 and are copied as they are. When the control plane goes away, so does the
//! connection; Envoy connects again by its own back-off and keeps its configuration meanwhile.

use std::time::Duration;

use malla_identity::source::CertSource;
use malla_runtime::log::Throttle;
use malla_runtime::task::TaskSet;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tracing::Span;

use crate::istiod::Istiod;

/// How long a connection of Envoy waits for our first certificate.
const CERTIFICATE_TIMEOUT: Duration = Duration::from_secs(10);

/// Relays until it is dropped.
pub async fn serve(listener: UnixListener, istiod: Istiod, source: CertSource) {
    let mut connections = TaskSet::new();
    let warnings = std::sync::Arc::new(Throttle::default());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(skipped) = warnings.allow("accept") {
                    tracing::warn!(%error, skipped, "cannot accept a connection of the proxy");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (istiod, source, warnings) = (istiod.clone(), source.clone(), warnings.clone());
        connections.spawn(Span::current(), async move {
            if let Err(reason) = relay(stream, &istiod, &source).await
                && let Some(skipped) = warnings.allow("relay")
            {
                tracing::warn!(
                    reason,
                    skipped,
                    "the proxy is not connected to the control plane"
                );
            }
        });
    }
}

async fn relay(mut proxy: UnixStream, istiod: &Istiod, source: &CertSource) -> Result<(), String> {
    tokio::time::timeout(CERTIFICATE_TIMEOUT, source.ready())
        .await
        .map_err(|_| "there is no certificate yet".to_owned())?;
    let mut upstream = istiod.connect().await.map_err(|error| error.to_string())?;
    tracing::debug!("relaying");
    // Either side may go at any time; that is the normal end.
    let _ = copy_bidirectional(&mut proxy, &mut upstream).await;
    Ok(())
}
