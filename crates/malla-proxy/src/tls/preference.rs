//! Which of the ciphers both sides know is used: BoringSSL's order, which is Envoy's.

use std::cmp::Reverse;

use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;

use super::material::cipher_name;

/// Envoy's `cipher_suites` where none are configured, and what BoringSSL prefers in TLS 1.3: the smaller key, with the hash
/// that processors have instructions for. Their brackets, within which the client chooses, are not known to rustls.
const ORDER: [&str; 9] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
];

/// The provider with its suites in order of preference: ChaCha20 first where AES is slow.
pub(super) fn by_cost(mut provider: CryptoProvider) -> CryptoProvider {
    order(&mut provider.cipher_suites, has_aes());
    provider
}

fn order(suites: &mut [SupportedCipherSuite], aes: bool) {
    suites.sort_by_key(|suite| {
        let name = cipher_name(*suite);
        let place = ORDER.iter().position(|known| *known == name);
        (
            Reverse(suite.tls13().is_some()),
            !aes && !name.contains("CHACHA20"),
            place.unwrap_or(ORDER.len()),
        )
    });
}

/// The TLS 1.2 suites as a configuration lists them; those of TLS 1.3 stay before them.
pub(super) fn as_listed(suites: &mut [SupportedCipherSuite], wanted: &[&str]) {
    suites.sort_by_key(|suite| match suite {
        SupportedCipherSuite::Tls13(_) => None,
        SupportedCipherSuite::Tls12(_) => {
            wanted.iter().position(|name| *name == cipher_name(*suite))
        }
    });
}

/// Whether this processor has instructions for AES.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs;

    use super::{ORDER, as_listed, cipher_name, order};

    fn names(change: impl Fn(&mut [rustls::SupportedCipherSuite])) -> Vec<&'static str> {
        let mut suites = aws_lc_rs::DEFAULT_CIPHER_SUITES.to_vec();
        change(&mut suites);
        suites.into_iter().map(cipher_name).collect()
    }

    #[test]
    fn the_cheapest_comes_first() {
        assert_eq!(names(|suites| order(suites, true)), ORDER);
        let slow = names(|suites| order(suites, false));
        assert_eq!(
            slow[..2],
            ["TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"]
        );
        assert_eq!(slow[3], "ECDHE-ECDSA-CHACHA20-POLY1305");
    }

    #[test]
    fn a_list_is_taken_in_its_order() {
        let wanted = [
            "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
        ];
        let listed = names(|suites| {
            order(suites, true);
            as_listed(suites, &wanted);
        });
        let at = |name| listed.iter().position(|other| *other == name).unwrap();
        assert_eq!(listed[..3], ORDER[..3]);
        assert!(at(wanted[0]) < at(wanted[1]));
    }
}
