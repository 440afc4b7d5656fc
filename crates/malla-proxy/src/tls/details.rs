//! What only logs tell of certificates; worked out from their bytes when a line asks for it.

use std::fmt::Write as _;
use std::net::IpAddr;

use aws_lc_rs::digest::{Algorithm, digest};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::peer::hex;

/// Kinds of names in a certificate's subjectAltName.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    Uri,
    Dns,
    Ip,
    Email,
    Other,
}

/// The names of one kind, with commas between them; empty if there is none.
pub fn names(certificate: &CertificateDer<'_>, kind: NameKind) -> String {
    let mut out = String::new();
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return out;
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return out;
    };
    for name in &names.value.general_names {
        let text = match (name, kind) {
            (GeneralName::URI(text), NameKind::Uri)
            | (GeneralName::DNSName(text), NameKind::Dns)
            | (GeneralName::RFC822Name(text), NameKind::Email) => Some((*text).to_owned()),
            (GeneralName::IPAddress(bytes), NameKind::Ip) => ip(bytes).map(|ip| ip.to_string()),
            (GeneralName::OtherName(_, value), NameKind::Other) => other(value),
            _ => None,
        };
        if let Some(text) = text {
            let comma = if out.is_empty() { "" } else { "," };
            let _ = write!(out, "{comma}{text}");
        }
    }
    out
}

/// The digest of a certificate, lower-case hex.
pub fn fingerprint(certificate: &CertificateDer<'_>, algorithm: &'static Algorithm) -> String {
    hex(digest(algorithm, certificate).as_ref())
}

/// The serial number, lower-case hex; empty if the certificate does not parse.
pub fn serial(certificate: &CertificateDer<'_>) -> String {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => {
            let raw = parsed.raw_serial();
            hex(raw.strip_prefix(&[0]).unwrap_or(raw))
        }
        Err(_) => String::new(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(four.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// The text within `[0] EXPLICIT`, where it is one (RFC 5280 §4.2.1.6).
fn other(value: &[u8]) -> Option<String> {
    const UTF8: u8 = 12;
    const PRINTABLE: u8 = 19;
    const IA5: u8 = 22;
    let (tag, inner) = element(value)?;
    let (kind, text) = if tag == 0xa0 {
        element(inner)?
    } else {
        (tag, inner)
    };
    let is_text = matches!(kind, UTF8 | PRINTABLE | IA5);
    let text = std::str::from_utf8(text).ok()?;
    (is_text && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// The tag and the content of a DER element of fewer than 256 bytes.
fn element(bytes: &[u8]) -> Option<(u8, &[u8])> {
    match *bytes {
        [tag, 0x81, length, ref rest @ ..] => Some((tag, rest.get(..length.into())?)),
        [tag, length @ 0..=127, ref rest @ ..] => Some((tag, rest.get(..length.into())?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};
    use rustls_pki_types::CertificateDer;

    use super::{NameKind, names, other, serial};

    #[test]
    fn other_names_are_texts() {
        let check = |bytes: &[u8], want: Option<&str>| {
            assert_eq!(other(bytes).as_deref(), want, "{bytes:?}");
        };
        check(b"\xa0\x06\x0c\x04user", Some("user"));
        check(b"\x0c\x04user", Some("user"));
        check(b"\xa0\x06\x02\x04user", None);
        check(b"\xa0\x06\x0c\x09user", None);
        check(b"\xa0\x04\x0c\x02\x1b[", None);
        check(b"", None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = other(&bytes);
            let certificate = CertificateDer::from(bytes);
            let _ = (names(&certificate, NameKind::Other), serial(&certificate));
        }
    }
}
