//! How a workload takes connections: the PeerAuthentications in force, by precedence
//! workload > namespace > mesh, with Istio's default of PERMISSIVE.

use malla_model::Mesh;
use malla_model::id::{Labels, selects};
use malla_model::policy::{MtlsMode, PeerAuthentication};
use malla_model::workload::{Endpoint, TlsMode};

/// The policies that concern one workload.
#[derive(Debug)]
pub(crate) struct Authn<'a> {
    workload: Option<&'a PeerAuthentication>,
    /// The workload's mode where no port says otherwise.
    mode: MtlsMode,
}

impl<'a> Authn<'a> {
    pub(crate) fn of(mesh: &'a Mesh, namespace: &str, labels: &Labels) -> Self {
        let root = &*mesh.settings.root_namespace;
        // The mesh keeps policies oldest first, so the first found wins.
        let general = |of: &str| {
            let policy = mesh
                .peer_authentications
                .iter()
                .find(|pa| pa.selector.is_none() && pa.meta.namespace() == of);
            policy.and_then(|pa| pa.mode)
        };
        // Istio ignores selectors in the root namespace.
        let workload = (namespace != root)
            .then(|| {
                mesh.peer_authentications.iter().find(|pa| {
                    pa.meta.namespace() == namespace
                        && pa.selector.as_ref().is_some_and(|s| selects(s, labels))
                })
            })
            .flatten();
        let mode = workload
            .and_then(|pa| pa.mode)
            .or_else(|| general(namespace))
            .or_else(|| general(root))
            .unwrap_or(MtlsMode::Permissive);
        Self {
            workload: workload.map(|pa| &**pa),
            mode,
        }
    }

    /// The mode of a port the workload listens on.
    pub(crate) fn at(&self, port: u16) -> MtlsMode {
        self.workload
            .and_then(|pa| pa.ports.get(&port).copied().flatten())
            .unwrap_or(self.mode)
    }

    /// The mode of ports nothing is said of.
    pub(crate) fn elsewhere(&self) -> MtlsMode {
        self.mode
    }

    /// Ports with a mode of their own.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (u16, MtlsMode)> + '_ {
        self.workload
            .into_iter()
            .flat_map(|pa| pa.ports.iter())
            .filter_map(|(port, mode)| Some((*port, (*mode)?)))
    }
}

/// Whether callers speak mutual TLS to `endpoint`: its proxy can, and its policy lets it.
pub(crate) fn speaks_mtls(mesh: &Mesh, namespace: &str, endpoint: &Endpoint) -> bool {
    endpoint.tls_mode == TlsMode::Istio
        && Authn::of(mesh, namespace, &endpoint.labels).at(endpoint.port) != MtlsMode::Disable
}
