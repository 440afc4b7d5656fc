//! Packing messages into `Any` and taking them out again.

use prost::{Message, Name};

use crate::Any;
use crate::canonical::sort_maps;
use crate::type_url::message_name;

/// Why an `Any` did not hold the message that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("holds {found:?} (expected {expected})")]
    OtherType { found: String, expected: String },
    #[error("holds a {name} whose bytes do not decode")]
    Malformed {
        name: String,
        #[source]
        source: prost::DecodeError,
    },
}

/// The message's bytes; equal messages give equal bytes.
#[must_use]
pub fn encode<M: Message + Name>(message: &M) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    sort_maps(&M::full_name(), &mut bytes);
    bytes
}

/// Packs a message; equal messages give equal bytes.
#[must_use]
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: encode(message),
    }
}

/// Whether `any` says that it holds an `M`. As in protobuf, only the part after the last `/` counts.
#[must_use]
pub fn is<M: Name>(any: &Any) -> bool {
    message_name(&any.type_url) == M::full_name()
}

/// Takes out the message.
///
/// # Errors
/// When `any` names another type, or its bytes are not of that type.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, UnpackError> {
    if !is::<M>(any) {
        return Err(UnpackError::OtherType {
            found: any.type_url.clone(),
            expected: M::full_name(),
        });
    }
    M::decode(&*any.value).map_err(|source| UnpackError::Malformed {
        name: M::full_name(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::{is, pack, unpack};
    use crate::core::{Address, Node};
    use crate::wkt;

    #[test]
    fn a_message_survives_the_trip() {
        let node = Node {
            id: "sidecar~10.0.0.1".into(),
            ..Node::default()
        };
        let any = pack(&node);
        assert_eq!(
            any.type_url,
            "type.googleapis.com/envoy.config.core.v3.Node"
        );
        assert_eq!(unpack::<Node>(&any).unwrap(), node);
        assert!(!is::<Address>(&any));
        assert_eq!(
            unpack::<Address>(&any).unwrap_err().to_string(),
            "holds \"type.googleapis.com/envoy.config.core.v3.Node\" (expected envoy.config.core.v3.Address)"
        );
    }

    #[test]
    fn equal_messages_give_equal_bytes() {
        let node = || Node {
            metadata: Some(wkt::structure(
                (0..40).map(|i| (format!("key-{i}"), wkt::string(&format!("value-{i}")))),
            )),
            ..Node::default()
        };
        let first = pack(&node());
        for _ in 0..20 {
            assert_eq!(pack(&node()), first);
        }
        assert_eq!(unpack::<Node>(&first).unwrap(), node());
    }
}
