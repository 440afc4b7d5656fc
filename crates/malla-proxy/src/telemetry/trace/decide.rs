//! Which requests are traced: Envoy's `ConnectionManagerUtility::mutateTracingRequestHeader`.
//!
//! The request id decides: its first 32 bits are the random number, so that every proxy on the way decides alike, and
//! its fifteenth character says what was decided before.

use http::{HeaderMap, HeaderName, HeaderValue};
use malla_proxy_config::tracing::Sampling;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");
const FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");
/// Characters of a UUID.
const UUID: usize = 36;
/// Where the reason stands; a random UUID has a 4 there, its version.
const REASON_AT: usize = 14;

/// Why a request is traced, or that it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is not.
    NotTraceable,
    /// By chance.
    Sampling,
    /// `x-envoy-force-trace`.
    ServiceForced,
    /// `x-client-trace-id`.
    ClientForced,
}

impl Reason {
    /// True if the request is traced.
    pub fn is_traced(self) -> bool {
        self != Self::NotTraceable
    }

    fn letter(self) -> u8 {
        match self {
            Self::NotTraceable => b'4',
            Self::ServiceForced => b'a',
            Self::Sampling => b'9',
            Self::ClientForced => b'b',
        }
    }
}

/// What a request id says about tracing.
pub fn reason_of(id: &[u8]) -> Reason {
    if id.len() != UUID {
        return Reason::NotTraceable;
    }
    match id.get(REASON_AT) {
        Some(b'a') => Reason::ServiceForced,
        Some(b'9') => Reason::Sampling,
        Some(b'b') => Reason::ClientForced,
        _ => Reason::NotTraceable,
    }
}

/// The number in a request id: its first eight digits.
pub fn number_of(id: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(id.get(..8)?).ok()?;
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

/// Writes a reason into a request id; one that is no UUID stays.
pub fn set_reason(headers: &mut HeaderMap, reason: Reason) {
    let Some(id) = headers.get_mut(&REQUEST_ID) else {
        return;
    };
    if id.len() != UUID || id.as_bytes().get(REASON_AT) == Some(&reason.letter()) {
        return;
    }
    let mut text = [0; UUID];
    text.copy_from_slice(id.as_bytes());
    text[REASON_AT] = reason.letter();
    if let Ok(changed) = HeaderValue::from_bytes(&text) {
        *id = changed;
    }
}

/// Decides, and writes the decision into the request id if `pack`. `random` decides for those that ask by
/// `x-client-trace-id`.
pub fn decide(headers: &mut HeaderMap, sampling: Sampling, pack: bool, random: u64) -> Reason {
    let id = headers.get(&REQUEST_ID).map(HeaderValue::as_bytes);
    let Some((id, number)) = id.and_then(|id| Some((id, number_of(id)? % 10_000))) else {
        return Reason::NotTraceable;
    };
    let before = reason_of(id);
    let mut reason = before;
    if reason == Reason::NotTraceable {
        if headers.contains_key(&CLIENT_TRACE_ID) && sampling.client.holds(random) {
            reason = Reason::ClientForced;
        } else if headers.contains_key(&FORCE_TRACE) {
            reason = Reason::ServiceForced;
        } else if sampling.random.holds(number) {
            reason = Reason::Sampling;
        }
    }
    if reason.is_traced() && !sampling.overall.holds(number) {
        reason = Reason::NotTraceable;
    }
    if reason != before && pack {
        set_reason(headers, reason);
    }
    reason
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use malla_proxy_config::tracing::{Sampling, Share};
    use proptest::prelude::proptest;

    use super::{Reason, decide, number_of, reason_of};

    const ID: &str = "0000270f-0000-4000-8000-000000000000"; // 9999

    fn sampling(random: f64, overall: f64) -> Sampling {
        Sampling {
            client: Share::ALL,
            random: Share::of_percent(random, 10_000),
            overall: Share::of_percent(overall, 100),
        }
    }

    #[test]
    fn the_request_id_decides_and_remembers() {
        let check =
            |headers: &[(&'static str, &str)], sampling: Sampling, want: Reason, id: &str| {
                let mut map = HeaderMap::new();
                for (name, value) in headers {
                    map.insert(*name, value.parse().unwrap());
                }
                assert_eq!(decide(&mut map, sampling, true, 0), want, "{headers:?}");
                assert_eq!(
                    map.get("x-request-id")
                        .map_or("", |id| id.to_str().unwrap()),
                    id
                );
            };
        let id = ("x-request-id", ID);
        let sampled = "0000270f-0000-9000-8000-000000000000";
        check(&[], sampling(100.0, 100.0), Reason::NotTraceable, "");
        check(&[id], sampling(100.0, 100.0), Reason::Sampling, sampled);
        check(&[id], sampling(99.99, 100.0), Reason::NotTraceable, ID);
        check(&[id], sampling(100.0, 99.0), Reason::NotTraceable, ID);
        check(
            &[("x-request-id", sampled)],
            sampling(0.0, 100.0),
            Reason::Sampling,
            sampled,
        );
        check(
            &[("x-request-id", sampled)],
            sampling(100.0, 0.0),
            Reason::NotTraceable,
            ID,
        );
        let forced = "0000270f-0000-a000-8000-000000000000";
        check(
            &[id, ("x-envoy-force-trace", "1")],
            sampling(0.0, 100.0),
            Reason::ServiceForced,
            forced,
        );
        let client = "0000270f-0000-b000-8000-000000000000";
        check(
            &[id, ("x-client-trace-id", "1")],
            sampling(0.0, 100.0),
            Reason::ClientForced,
            client,
        );
        // Not a UUID, but it has a number.
        check(
            &[("x-request-id", "0000270f!")],
            sampling(100.0, 100.0),
            Reason::Sampling,
            "0000270f!",
        );
        check(
            &[("x-request-id", "+000270f")],
            sampling(100.0, 100.0),
            Reason::NotTraceable,
            "+000270f",
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = (number_of(&bytes), reason_of(&bytes));
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut map = HeaderMap::new();
                map.insert("x-request-id", value);
                decide(&mut map, sampling(100.0, 100.0), true, 0);
            }
        }
    }
}
