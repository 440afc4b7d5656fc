//! What is told about the control plane and its proxies: istiod's `/debug` pages, over HTTP and over xDS
//! (`istio.io/debug…`), in the shapes that `istioctl` reads (istiod: `pilot/pkg/xds/debug.go`).
//!
//! Invariant: a caller of another namespace than the mesh's root sees proxies of that namespace only, and
//! no page but the dumps of their configuration. Nothing secret is told: keys of secrets are left out.

mod dump;
mod registry;
mod syncz;

use malla_model::SpiffeId;
use malla_xds::server::Answer;
use malla_xds_proto::{Any, type_url};
use serde_json::{Value, json};
use tonic::Status;

use crate::nodes::Connected;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Caller<'a> {
    /// Somebody on this machine's loopback.
    Local,
    Proved(&'a SpiffeId),
}

/// Why there is no page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPage {
    #[error("there is no debug page {0:?} (see /debug/list)")]
    Unknown(String),
    #[error("the debug page {0:?} is only for the mesh's root namespace")]
    Forbidden(String),
    #[error("the debug page {0:?} needs a proxy: ?proxyID=POD.NAMESPACE")]
    NoProxy(String),
    /// istiod's words: `istioctl` asks the next replica when it reads them.
    #[error("Proxy not connected to this Pilot instance. It may be connected to another instance.")]
    NotConnected,
}

/// Every page, and what it shows.
pub(crate) const PAGES: [&str; 15] = [
    "adsz",
    "clusterz",
    "config_dump",
    "configz",
    "connections",
    "ecdsz",
    "edsz",
    "endpointShardz",
    "endpointz",
    "list",
    "networkz",
    "push_status",
    "registryz",
    "resourcesz",
    "syncz",
];

/// Pages about one proxy, which its own namespace may see.
const OF_A_PROXY: [&str; 3] = ["config_dump", "ecdsz", "edsz"];

/// A page by its name and query, such as `config_dump?proxyID=cart-1.base`.
pub(crate) fn page(
    connected: &Connected,
    name_and_query: &str,
    caller: Caller<'_>,
) -> Result<Value, NoPage> {
    let (name, query) = name_and_query
        .split_once('?')
        .unwrap_or((name_and_query, ""));
    let unknown = || NoPage::Unknown(name.to_owned());
    let name = *PAGES
        .iter()
        .find(|known| **known == name)
        .ok_or_else(unknown)?;
    let only = restriction(connected, caller);
    if OF_A_PROXY.contains(&name) {
        return dump::page(connected, name, query, only);
    }
    if only.is_some() {
        return Err(NoPage::Forbidden(name.to_owned()));
    }
    let world = connected.world();
    let reports = connected.reports();
    Ok(match name {
        "syncz" => syncz::page(&reports, &world, parameter(query, "namespace")),
        "adsz" => syncz::clients(&reports, true),
        "connections" => syncz::clients(&reports, false),
        "list" => json!(PAGES),
        _ => world.map_or(Value::Null, |world| registry::page(name, &world)),
    })
}

/// Answers a question over xDS; `None` for types that are no questions.
pub(crate) fn answer(
    connected: &Connected,
    identity: &SpiffeId,
    type_url: &str,
    names: &[String],
) -> Option<Result<Vec<Answer>, Status>> {
    let caller = Caller::Proved(identity);
    let only = restriction(connected, caller);
    match type_url {
        type_url::DEBUG_SYNCZ => Some(Ok(syncz::states(&connected.reports(), only))),
        type_url::DEBUG_CONFIG_DUMP => {
            let [name] = names else {
                return Some(Ok(Vec::new())); // As istiod.
            };
            Some(Ok(dump::answer(connected, name, only)))
        }
        type_url::DEBUG => Some(match names {
            [name] => page(connected, name, caller)
                .map(|page| vec![told(name, &page)])
                .map_err(|error| match error {
                    NoPage::Forbidden(_) => Status::permission_denied(error.to_string()),
                    NoPage::Unknown(_) | NoPage::NoProxy(_) => {
                        Status::invalid_argument(error.to_string())
                    }
                    NoPage::NotConnected => Status::not_found(error.to_string()),
                }),
            _ => Err(Status::invalid_argument(
                "expected exactly one name, that of a debug page",
            )),
        }),
        other => other
            .strip_prefix(type_url::DEBUG)?
            .starts_with('/')
            .then(|| {
                Err(Status::invalid_argument(format!(
                    "{other} is not answered (expected {}, {} or {} with a page's name)",
                    type_url::DEBUG_SYNCZ,
                    type_url::DEBUG_CONFIG_DUMP,
                    type_url::DEBUG
                )))
            }),
    }
}

fn told(name: &str, page: &Value) -> Answer {
    Answer {
        name: name.to_owned(),
        body: Any {
            type_url: type_url::DEBUG.to_owned(),
            value: page.to_string().into_bytes(),
        },
    }
}

/// The only namespace a caller may ask about; `None` if every.
fn restriction<'a>(connected: &Connected, caller: Caller<'a>) -> Option<&'a str> {
    let Caller::Proved(identity) = caller else {
        return None;
    };
    let world = connected.world();
    let root = world.as_ref().map(|w| &*w.mesh.settings.root_namespace);
    Some(&*identity.namespace).filter(|namespace| root != Some(*namespace))
}

/// A query's parameter. (Names of pods and namespaces need no escapes.)
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value)
}
