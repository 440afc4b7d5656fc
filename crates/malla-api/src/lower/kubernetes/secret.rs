//! Secrets and ConfigMaps as TLS uses them. Two spellings of the keys are read, Istio's own first:
//! `cert`, `key`, `cacert`, `crl`, and Kubernetes' `tls.crt`, `tls.key`, `ca.crt`, `ca.crl`.

use std::collections::BTreeMap;
use std::sync::Arc;

use malla_model::secret::{KeyPair, Material, TrustAnchors};

/// Names of the keys that say the same thing.
struct Spelling {
    certificate: &'static str,
    key: &'static str,
    staple: &'static str,
    roots: &'static str,
    revoked: &'static str,
}

const ISTIO: Spelling = Spelling {
    certificate: "cert",
    key: "key",
    staple: "",
    roots: "cacert",
    revoked: "crl",
};
const KUBERNETES: Spelling = Spelling {
    certificate: "tls.crt",
    key: "tls.key",
    staple: "tls.ocsp-staple",
    roots: "ca.crt",
    revoked: "ca.crl",
};

/// Most keys that a message names.
const MOST_NAMED: usize = 5;

/// What `data` holds for TLS, by the names of its keys alone.
#[must_use]
pub fn material<T: AsRef<[u8]>>(data: &BTreeMap<String, T>) -> Material {
    Material {
        key_pair: key_pair(data),
        anchors: anchors(data),
    }
}

fn key_pair<T: AsRef<[u8]>>(data: &BTreeMap<String, T>) -> Result<KeyPair, Arc<str>> {
    for spelling in [ISTIO, KUBERNETES] {
        if let (Some(chain), Some(key)) =
            (value(data, spelling.certificate), value(data, spelling.key))
        {
            return Ok(KeyPair {
                chain,
                key,
                staple: value(data, spelling.staple),
            });
        }
    }
    Err(lacking(data, "tls.crt and tls.key (or cert and key)"))
}

fn anchors<T: AsRef<[u8]>>(data: &BTreeMap<String, T>) -> Result<TrustAnchors, Arc<str>> {
    for spelling in [ISTIO, KUBERNETES] {
        if let Some(roots) = value(data, spelling.roots) {
            return Ok(TrustAnchors {
                roots,
                revoked: value(data, spelling.revoked),
            });
        }
    }
    Err(lacking(data, "ca.crt (or cacert)"))
}

/// The value of a key that is there and is not empty.
fn value<T: AsRef<[u8]>>(data: &BTreeMap<String, T>, key: &str) -> Option<Arc<[u8]>> {
    let value = data.get(key)?.as_ref();
    (!value.is_empty()).then(|| value.into())
}

fn lacking<T>(data: &BTreeMap<String, T>, expected: &str) -> Arc<str> {
    let mut found: Vec<&str> = data.keys().map(String::as_str).collect();
    let rest = found.len().saturating_sub(MOST_NAMED);
    found.truncate(MOST_NAMED);
    let found = match (found.is_empty(), rest) {
        (true, _) => "no keys".to_owned(),
        (false, 0) => found.join(", "),
        (false, rest) => format!("{} and {rest} more", found.join(", ")),
    };
    format!("expected the keys {expected} with a value each, found {found}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &[(&str, &str)]) -> (String, String) {
        let data = keys
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.as_bytes()))
            .collect();
        let Material { key_pair, anchors } = material(&data);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let optional = |bytes: &Option<Arc<[u8]>>| bytes.as_deref().map_or(String::new(), text);
        (
            key_pair.map_or_else(
                |why| why.to_string(),
                |p| {
                    format!(
                        "{} {} {}",
                        text(&p.chain),
                        text(&p.key),
                        optional(&p.staple)
                    )
                },
            ),
            anchors.map_or_else(
                |why| why.to_string(),
                |a| format!("{} {}", text(&a.roots), optional(&a.revoked)),
            ),
        )
    }

    #[test]
    fn both_spellings_are_read_istios_first() {
        let kubernetes = [
            ("tls.crt", "c1"),
            ("tls.key", "k1"),
            ("tls.ocsp-staple", "o1"),
            ("ca.crt", "r1"),
            ("ca.crl", "l1"),
        ];
        assert_eq!(check(&kubernetes), ("c1 k1 o1".into(), "r1 l1".into()));
        let istio = [
            ("cert", "c2"),
            ("key", "k2"),
            ("cacert", "r2"),
            ("crl", "l2"),
        ];
        assert_eq!(check(&istio), ("c2 k2 ".into(), "r2 l2".into()));
        let both = [kubernetes.as_slice(), istio.as_slice()].concat();
        assert_eq!(check(&both), ("c2 k2 ".into(), "r2 l2".into()));
        // Half of a spelling does not count.
        let half = [("cert", "c2"), ("tls.crt", "c1"), ("tls.key", "k1")];
        assert_eq!(check(&half).0, "c1 k1 ");
    }

    #[test]
    fn what_is_lacking_is_said() {
        let (pair, anchors) = check(&[("tls.crt", ""), ("tls.key", "k")]);
        assert_eq!(
            pair,
            "expected the keys tls.crt and tls.key (or cert and key) with a value each, found tls.crt, tls.key"
        );
        assert_eq!(
            anchors,
            "expected the keys ca.crt (or cacert) with a value each, found tls.crt, tls.key"
        );
        assert!(check(&[]).0.ends_with("found no keys"));
    }
}
