//! The node: what the control plane is told about this proxy, in Istio's form.

use malla_xds_proto::core::{Node, node::UserAgentVersionType};
use malla_xds_proto::pb::google::protobuf::value::Kind;
use malla_xds_proto::pb::google::protobuf::{ListValue, Struct, Value as Wire};
use serde_json::{Map, Value, json};

use crate::settings::Settings;

/// `TYPE~IP~POD.NAMESPACE~DOMAIN`.
#[must_use]
pub fn id(settings: &Settings) -> String {
    let Settings {
        role,
        address,
        pod,
        namespace,
        domain,
        ..
    } = settings;
    format!("{}~{address}~{pod}.{namespace}~{domain}", role.node_type())
}

/// `APP.NAMESPACE`, the local cluster's name in Envoy.
#[must_use]
pub fn cluster(settings: &Settings) -> String {
    let labels = &settings.labels;
    let app = labels
        .get("service.istio.io/canonical-name")
        .or_else(|| labels.get("app.kubernetes.io/name"))
        .or_else(|| labels.get("app"))
        .unwrap_or(&settings.service_account);
    format!("{app}.{}", settings.namespace)
}

/// Istio's node metadata: the pod's own data, then `ISTIO_META_*`.
#[must_use]
pub fn metadata(settings: &Settings) -> Map<String, Value> {
    let mut metadata = Map::new();
    let mut put = |key: &str, value: Value| {
        metadata.insert(key.to_owned(), value);
    };
    put("NAME", json!(settings.pod));
    put("NAMESPACE", json!(settings.namespace));
    put("SERVICE_ACCOUNT", json!(settings.service_account));
    put("INSTANCE_IPS", json!(settings.address.to_string()));
    put("LABELS", json!(settings.labels));
    put("ANNOTATIONS", json!(settings.annotations));
    put("PILOT_SAN", json!([host(&settings.control_plane)]));
    put("ENVOY_STATUS_PORT", json!(settings.ports.ready));
    put("ENVOY_PROMETHEUS_PORT", json!(settings.ports.stats));
    let own = settings.metadata.iter();
    metadata.extend(own.map(|(key, value)| (key.clone(), value.clone())));
    metadata
}

/// The host of `HOST:PORT`.
pub(crate) fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

/// The node of Malla's own proxy. (Envoy builds its own, from the bootstrap.)
#[must_use]
pub fn malla_node(settings: &Settings, version: &str) -> Node {
    Node {
        id: id(settings),
        cluster: cluster(settings),
        metadata: Some(to_struct(metadata(settings))),
        user_agent_name: "malla".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(version.to_owned())),
        ..Node::default()
    }
}

fn to_struct(fields: Map<String, Value>) -> Struct {
    let fields = fields.into_iter().map(|(key, value)| (key, to_wire(value)));
    Struct {
        fields: fields.collect(),
    }
}

fn to_wire(value: Value) -> Wire {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        // Structs know doubles only.
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => Kind::ListValue(ListValue {
            values: values.into_iter().map(to_wire).collect(),
        }),
        Value::Object(fields) => Kind::StructValue(to_struct(fields)),
    };
    Wire { kind: Some(kind) }
}
