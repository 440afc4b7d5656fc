//! `TypedStruct`: a message of some type given as JSON. Istio's users write it in EnvoyFilters.
//! It exists under two names, from before and after UDPA became xDS.

use crate::pb::google::protobuf::Struct;

/// `udpa.type.v1.TypedStruct`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UdpaTypedStruct {
    /// Type URL of the message that `value` is the JSON of.
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<Struct>,
}

impl prost::Name for UdpaTypedStruct {
    const NAME: &'static str = "TypedStruct";
    const PACKAGE: &'static str = "udpa.type.v1";

    fn type_url() -> String {
        "type.googleapis.com/udpa.type.v1.TypedStruct".into()
    }
}

/// `xds.type.v3.TypedStruct`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct XdsTypedStruct {
    /// Type URL of the message that `value` is the JSON of.
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<Struct>,
}

impl prost::Name for XdsTypedStruct {
    const NAME: &'static str = "TypedStruct";
    const PACKAGE: &'static str = "xds.type.v3";

    fn type_url() -> String {
        "type.googleapis.com/xds.type.v3.TypedStruct".into()
    }
}
