//! Malla's own extensions of Envoy's configuration, which only Malla's proxy has.

use crate::pb::google::protobuf::Duration;

/// `malla.extensions.load_balancing_policies.peak_ewma.v1.PeakEwma`: of two endpoints drawn at random, the one that
/// answers sooner and has less under way.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PeakEwma {
    /// How long a latency is remembered: its weight falls to 1/e in this time. 10 s unless told.
    #[prost(message, optional, tag = "1")]
    pub decay_time: Option<Duration>,
    /// The latency of an endpoint that has not answered yet. 30 ms unless told.
    #[prost(message, optional, tag = "2")]
    pub default_rtt: Option<Duration>,
}

impl prost::Name for PeakEwma {
    const NAME: &'static str = "PeakEwma";
    const PACKAGE: &'static str = "malla.extensions.load_balancing_policies.peak_ewma.v1";

    fn type_url() -> String {
        format!("type.googleapis.com/{}.{}", Self::PACKAGE, Self::NAME)
    }
}

#[cfg(test)]
mod tests {
    use super::PeakEwma;
    use crate::{any, json};

    #[test]
    fn it_is_read_from_json_as_users_write_it() {
        let any = json::any_from_value(serde_json::json!({
            "@type": "type.googleapis.com/malla.extensions.load_balancing_policies.peak_ewma.v1.PeakEwma",
            "decay_time": "5s",
        }))
        .unwrap();
        let config: PeakEwma = any::unpack(&any).unwrap();
        assert_eq!(config.decay_time.unwrap().seconds, 5);
        assert_eq!(config.default_rtt, None);
    }
}
