//! The objects to analyze, as they are written, and what is known of them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use malla_model::id::Labels;
use malla_model::{Host, MeshSettings};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::message::{Source, Subject};
use crate::istio::{
    AuthorizationPolicySpec, DestinationRuleSpec, GatewaySpec, PeerAuthenticationSpec,
    RequestAuthenticationSpec, ServiceEntrySpec, VirtualServiceSpec,
};
use crate::kind::Kind;
use crate::lower::drop_nulls;

/// Objects of any kind, from a cluster or from files. Of two with the same name the later replaces
/// the earlier, as applying one file after the other does.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub objects: Vec<RawObject>,
    pub settings: MeshSettings,
    /// Revisions of control planes that run; empty is unknown, so nothing is said of them.
    pub revisions: Vec<String>,
}

/// One object as JSON, with where it was written.
#[derive(Debug, Clone)]
pub struct RawObject {
    pub value: Value,
    pub source: Option<Source>,
}

/// Why a file cannot be analyzed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: not YAML: {reason}")]
pub struct NotYaml {
    pub file: String,
    pub line: usize,
    pub reason: String,
}

impl World {
    /// Adds an object of a cluster.
    pub fn add(&mut self, value: Value) {
        self.add_from(value, None);
    }

    /// Adds every document of a YAML file; a `List` is its items.
    ///
    /// # Errors
    /// At the first document that is no YAML; the ones before it are added.
    pub fn add_yaml(&mut self, file: &str, text: &str) -> Result<(), NotYaml> {
        for (line, document) in documents(text) {
            let value: Value = serde_saphyr::from_str(&document).map_err(|error| NotYaml {
                file: file.to_owned(),
                line,
                reason: error.to_string(),
            })?;
            let source = Source {
                file: file.to_owned(),
                line,
            };
            self.add_from(value, Some(source));
        }
        Ok(())
    }

    /// The objects without those that a later one replaces.
    pub(super) fn latest(&self) -> Vec<&RawObject> {
        let mut last: BTreeMap<Subject, usize> = BTreeMap::new();
        for (at, object) in self.objects.iter().enumerate() {
            last.insert(identity(object), at);
        }
        let kept = |(at, object): &(usize, &RawObject)| {
            let key = identity(object);
            key.name.is_empty() || last.get(&key) == Some(at)
        };
        let objects = self.objects.iter().enumerate();
        objects.filter(kept).map(|(_, object)| object).collect()
    }

    fn add_from(&mut self, value: Value, source: Option<Source>) {
        match value {
            Value::Object(mut list)
                if list.get("items").is_some_and(Value::is_array) && is_list(&list) =>
            {
                if let Some(Value::Array(items)) = list.remove("items") {
                    for item in items {
                        self.add_from(item, source.clone());
                    }
                }
            }
            Value::Null => {}
            value => self.objects.push(RawObject { value, source }),
        }
    }
}

/// Names an object whatever its version and wherever it was written.
fn identity(object: &RawObject) -> Subject {
    let api_version = object
        .value
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let named = subject(object);
    Subject {
        kind: format!("{}.{group}", named.kind),
        source: None,
        ..named
    }
}

fn is_list(object: &serde_json::Map<String, Value>) -> bool {
    let kind = object.get("kind").and_then(Value::as_str);
    kind.is_some_and(|kind| kind.ends_with("List"))
}

/// The documents of a YAML file with the line of their first content.
fn documents(text: &str) -> Vec<(usize, String)> {
    let mut documents = Vec::new();
    let mut current: Option<(usize, String)> = None;
    for (at, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            documents.extend(current.take());
            continue;
        }
        let says_something = !line.trim().is_empty() && !line.trim_start().starts_with('#');
        match &mut current {
            Some((_, document)) => {
                document.push_str(line);
                document.push('\n');
            }
            None if says_something => current = Some((at + 1, format!("{line}\n"))),
            None => {}
        }
    }
    documents.extend(current);
    documents
}

/// An object of a known kind.
#[derive(Debug, Clone)]
pub(super) struct Item<T> {
    pub(super) subject: Subject,
    pub(super) metadata: ObjectMeta,
    pub(super) spec: T,
}

impl<T> Item<T> {
    pub(super) fn namespace(&self) -> &str {
        &self.subject.namespace
    }

    pub(super) fn name(&self) -> &str {
        &self.subject.name
    }

    pub(super) fn labels(&self) -> &Labels {
        static NONE: Labels = Labels::new();
        self.metadata.labels.as_ref().unwrap_or(&NONE)
    }

    /// Istio's "oldest wins".
    pub(super) fn age(&self) -> (i64, &str, &str) {
        let created = self.metadata.creation_timestamp.as_ref();
        (
            created.map_or(0, |time| time.0.as_second()),
            self.name(),
            self.namespace(),
        )
    }
}

/// The world, sorted by kind.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) virtual_services: Vec<Item<VirtualServiceSpec>>,
    pub(super) destination_rules: Vec<Item<DestinationRuleSpec>>,
    pub(super) gateways: Vec<Item<GatewaySpec>>,
    pub(super) service_entries: Vec<Item<ServiceEntrySpec>>,
    pub(super) peer_authentications: Vec<Item<PeerAuthenticationSpec>>,
    pub(super) request_authentications: Vec<Item<RequestAuthenticationSpec>>,
    pub(super) authorization_policies: Vec<Item<AuthorizationPolicySpec>>,
    pub(super) services: Vec<Item<core::ServiceSpec>>,
    pub(super) pods: Vec<Item<core::PodSpec>>,
    pub(super) namespaces: Vec<Item<()>>,
    pub(super) deployments: Vec<Item<apps::DeploymentSpec>>,
    pub(super) secrets: Vec<Item<core::Secret>>,
    /// Ports of every service of the mesh by its full name.
    pub(super) hosts: BTreeMap<Host, Vec<u16>>,
}

impl Known {
    pub(super) fn of(objects: &[&RawObject], settings: &MeshSettings) -> Self {
        let mut known = Self::default();
        for object in objects {
            known.take(object);
        }
        known.virtual_services.sort_by(|a, b| a.age().cmp(&b.age()));
        known.gateways.sort_by(|a, b| a.age().cmp(&b.age()));
        known.collect_hosts(&settings.domain);
        known
    }

    fn take(&mut self, object: &RawObject) {
        let text = |name: &str| {
            object
                .value
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        match (api_version, kind, Kind::of(api_version, kind)) {
            (_, _, Some(Kind::VirtualService)) => {
                self.virtual_services.extend(item(object, "spec"))
            }
            (_, _, Some(Kind::DestinationRule)) => {
                self.destination_rules.extend(item(object, "spec"))
            }
            (_, _, Some(Kind::Gateway)) => self.gateways.extend(item(object, "spec")),
            (_, _, Some(Kind::ServiceEntry)) => self.service_entries.extend(item(object, "spec")),
            (_, _, Some(Kind::PeerAuthentication)) => {
                self.peer_authentications.extend(item(object, "spec"))
            }
            (_, _, Some(Kind::RequestAuthentication)) => {
                self.request_authentications.extend(item(object, "spec"))
            }
            (_, _, Some(Kind::AuthorizationPolicy)) => {
                self.authorization_policies.extend(item(object, "spec"))
            }
            ("v1", "Service", _) => self.services.extend(item(object, "spec")),
            ("v1", "Pod", _) => self.pods.extend(item(object, "spec")),
            ("v1", "Namespace", _) => self.namespaces.extend(bare(object)),
            ("apps/v1", "Deployment", _) => self.deployments.extend(item(object, "spec")),
            ("v1", "Secret", _) => self.secrets.extend(item(object, "")),
            _ => {}
        }
    }

    fn collect_hosts(&mut self, domain: &str) {
        for service in &self.services {
            let host = Host::new(&format!(
                "{}.{}.svc.{domain}",
                service.name(),
                service.namespace()
            ));
            let ports = service.spec.ports.iter().flatten();
            let tcp = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
            let numbers = tcp.filter_map(|port| u16::try_from(port.port).ok());
            self.hosts.insert(host, numbers.collect());
        }
        for entry in &self.service_entries {
            for host in &entry.spec.hosts {
                let ports = entry
                    .spec
                    .ports
                    .iter()
                    .filter_map(|port| u16::try_from(port.number).ok());
                let host = Host::resolve(host, entry.namespace(), domain);
                self.hosts.entry(host).or_default().extend(ports);
            }
        }
    }

    /// The ports of a service, by its own name or a wildcard's.
    pub(super) fn ports_of(&self, host: &Host) -> Option<&Vec<u16>> {
        self.hosts.get(host).or_else(|| {
            self.hosts
                .iter()
                .find(|(known, _)| known.covers(host))
                .map(|(_, ports)| ports)
        })
    }

    /// Whether some pod of the namespace (of any, if `None`) carries the labels.
    pub(super) fn selects_a_pod(&self, labels: &Labels, namespace: Option<&str>) -> bool {
        self.pods.iter().any(|pod| {
            namespace.is_none_or(|namespace| pod.namespace() == namespace)
                && malla_model::id::selects(labels, pod.labels())
        })
    }
}

fn bare(object: &RawObject) -> Option<Item<()>> {
    let metadata: ObjectMeta = part(object.value.get("metadata")?)?;
    Some(Item {
        subject: subject(object),
        metadata,
        spec: (),
    })
}

/// `None` for objects that cannot be read; schema validation says why.
fn item<T: DeserializeOwned>(object: &RawObject, field: &str) -> Option<Item<T>> {
    let Item {
        subject, metadata, ..
    } = bare(object)?;
    let spec = match field {
        "" => part(&object.value)?,
        field => part(
            object
                .value
                .get(field)
                .unwrap_or(&Value::Object(serde_json::Map::new())),
        )?,
    };
    Some(Item {
        subject,
        metadata,
        spec,
    })
}

fn part<T: DeserializeOwned>(value: &Value) -> Option<T> {
    let mut value = value.clone();
    drop_nulls(&mut value);
    T::deserialize(value).ok()
}

/// Cluster-wide kinds that the analyzer speaks of.
const CLUSTER_WIDE: [&str; 2] = ["Namespace", "Node"];

/// Names a raw object; without a namespace it is of `default`.
pub(super) fn subject(object: &RawObject) -> Subject {
    let metadata = |name: &str| {
        let value = object
            .value
            .get("metadata")
            .and_then(|metadata| metadata.get(name));
        value.and_then(Value::as_str).unwrap_or_default()
    };
    let kind = object
        .value
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or("Object");
    let namespace = match (metadata("namespace"), CLUSTER_WIDE.contains(&kind)) {
        (_, true) => "",
        ("", false) => "default",
        (namespace, false) => namespace,
    };
    Subject {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: metadata("name").to_owned(),
        source: object.source.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::documents;

    #[test]
    fn documents_know_their_lines() {
        let text = "# head\n\na: 1\nb: 2\n---\n---\n# only a comment\n---\nc: 3\n";
        let lines: Vec<(usize, String)> = documents(text);
        assert_eq!(
            lines,
            [(3, "a: 1\nb: 2\n".to_owned()), (9, "c: 3\n".to_owned())]
        );
    }
}
