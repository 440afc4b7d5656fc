//! Lifecycle hooks: postStart and preStop.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::container::Running;
use super::pod::PodShared;
use super::{NodeShared, commands, http};

/// Runs a hook to its end; an error says how it failed. The caller bounds the time.
pub(super) async fn run(
    node: &NodeShared,
    pod: &PodShared,
    container: &Container,
    running: &Running,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let argv = exec.command.as_deref().unwrap_or_default();
        return Box::pin(commands::run(&node.spawner, running, argv)).await;
    }
    if let Some(get) = &handler.http_get {
        let Some(network) = pod.network() else {
            return Err("the pod has no network".to_owned());
        };
        let status = Box::pin(http::get(
            node.network.namespace(),
            network.socket(0),
            container,
            get,
        ))
        .await;
        let status = status.map_err(|error| error.to_string())?;
        // The kubelet takes any answer for a done hook but those that say it is not.
        return if status.is_client_error() || status.is_server_error() {
            Err(format!("HTTP hook answered {status}"))
        } else {
            Ok(())
        };
    }
    if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    if handler.tcp_socket.is_some() {
        return Err("tcpSocket hooks are not supported, here as in Kubernetes".to_owned());
    }
    Ok(())
}
