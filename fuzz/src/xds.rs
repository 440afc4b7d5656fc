//! Envoy's messages as YAML, JSON and protobuf, and what a proxy says of itself.

use malla_model::Mesh;
use malla_translate::{NodeView, translate};
use malla_xds_proto::bootstrap::Bootstrap;
use malla_xds_proto::cluster::Cluster;
use malla_xds_proto::core::Node;
use malla_xds_proto::discovery::{DeltaDiscoveryRequest, DiscoveryResponse};
use malla_xds_proto::endpoint::ClusterLoadAssignment;
use malla_xds_proto::hcm::HttpConnectionManager;
use malla_xds_proto::listener::Listener;
use malla_xds_proto::nds::NameTable;
use malla_xds_proto::route::RouteConfiguration;
use malla_xds_proto::tls::Secret;
use malla_xds_proto::typed_struct::XdsTypedStruct;
use malla_xds_proto::{Any, any, json};
use prost::{Message, Name};

/// Envoy YAML: what is read prints as JSON that reads as the same message.
pub fn envoy_yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(message) = json::from_yaml::<Bootstrap>(text) {
        let printed = json::print(&message);
        let again: Bootstrap = json::from_value(printed)
            .unwrap_or_else(|error| panic!("what we print we read: {error}"));
        assert_eq!(
            any::encode(&again),
            any::encode(&message),
            "printing and reading lose nothing"
        );
    }
    let _ = json::from_yaml::<Node>(text);
    let _ = json::from_yaml::<RouteConfiguration>(text);
    if let Ok(value) = serde_saphyr::from_str::<serde_json::Value>(text)
        && let Ok(any) = json::any_from_value(value)
    {
        let again = json::any_from_value(json::print_any(&any))
            .unwrap_or_else(|error| panic!("what we print we read: {error}"));
        assert_eq!(again, any);
    }
}

/// A message of the type that the first byte says: its canonical form is canonical, and its JSON reads as what it says.
pub fn envoy_proto(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    match kind % 11 {
        0 => message::<Listener>(bytes),
        1 => message::<RouteConfiguration>(bytes),
        2 => message::<Cluster>(bytes),
        3 => message::<ClusterLoadAssignment>(bytes),
        4 => message::<Secret>(bytes),
        5 => message::<HttpConnectionManager>(bytes),
        6 => message::<NameTable>(bytes),
        7 => message::<DiscoveryResponse>(bytes),
        8 => message::<DeltaDiscoveryRequest>(bytes),
        9 => message::<XdsTypedStruct>(bytes),
        _ => {
            if let Ok(any) = Any::decode(bytes) {
                let _ = json::print_any(&any);
            }
        }
    }
}

fn message<M: Message + Name + Default>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else {
        return;
    };
    let canonical = any::encode(&message);
    let again = M::decode(&*canonical).expect("what we encode we decode");
    assert_eq!(
        any::encode(&again),
        canonical,
        "a canonical form is its own canonical form"
    );
    let packed = any::pack(&message);
    assert_eq!(*packed.value, *canonical);
    any::unpack::<M>(&packed).expect("what we pack we unpack");
    let printed = json::print(&message);
    // What has no JSON form (a duration out of range, an `Any` of unknown type) cannot be read back.
    if let Ok(read) = json::from_value::<M>(printed.clone()) {
        assert_eq!(
            json::print(&read),
            printed,
            "reading what was printed loses nothing"
        );
    }
}

/// `node` of the first request, JSON or protobuf: whoever asks gets resources for something.
pub fn node(data: &[u8]) {
    let text = std::str::from_utf8(data).ok();
    let node = text
        .and_then(|text| json::from_yaml(text).ok())
        .or_else(|| Node::decode(data).ok());
    let Some(node) = node else { return };
    if let Ok(view) = NodeView::from_xds(&node) {
        let resources = translate(&Mesh::default(), &view);
        assert_eq!(
            resources,
            translate(&Mesh::default(), &view),
            "a pure function"
        );
    }
}
