//! Reads server name and ALPN out of a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301).
use super::{MAX_PEEK, Verdict};

/// What a TLS client asks for before anything is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// SNI host name, lower case; empty if none.
    pub server_name: String,
    /// ALPN protocols, in the client's order.
    pub alpn: Vec<String>,
}

const RECORD_HEADER: usize = 5;
const MAX_RECORD: usize = 16 * 1024 + 2048;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXT_SERVER_NAME: u16 = 0;
const EXT_ALPN: u16 = 16;

/// Decides whether a stream starts with a TLS ClientHello.
pub fn inspect_tls(prefix: &[u8]) -> Verdict<ClientHello> {
    let mut message: Vec<u8> = Vec::new();
    let mut rest = prefix;
    // A ClientHello may be spread over several records.
    loop {
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Verdict::IsNot;
        }
        match wanted(&message) {
            Some(length) if message.len() >= length => {
                return match parse(message.get(4..length).unwrap_or_default()) {
                    Some(hello) => Verdict::Is(hello),
                    None => Verdict::IsNot,
                };
            }
            Some(length) if length > MAX_PEEK => return Verdict::IsNot,
            _ => {}
        }
        let plausible = [rest.first() == Some(&HANDSHAKE), rest.get(1) == Some(&3)];
        if plausible.iter().zip(rest).any(|(fits, _)| !fits) {
            return Verdict::IsNot;
        }
        let [_, _, _, high, low, ..] = *rest else {
            return Verdict::More;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > MAX_RECORD {
            return Verdict::IsNot;
        }
        let body = &rest[RECORD_HEADER..];
        let Some((record, next)) = body.split_at_checked(length) else {
            let early =
                message.is_empty() && body.first().is_some_and(|kind| *kind != CLIENT_HELLO);
            return if early { Verdict::IsNot } else { Verdict::More };
        };
        message.extend_from_slice(record);
        rest = next;
    }
}

/// Length of the handshake message with its header, once the header is there.
fn wanted(message: &[u8]) -> Option<usize> {
    let [_, a, b, c, ..] = *message else {
        return None;
    };
    Some(4 + u32::from_be_bytes([0, a, b, c]) as usize)
}

fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?; // Version and random.
    reader.vec8()?; // Session id.
    reader.vec16()?; // Cipher suites.
    reader.vec8()?; // Compression methods.
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        return Some(hello); // A hello without extensions is valid.
    }
    let mut extensions = Reader(reader.vec16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = Reader(extensions.vec16()?);
        match kind {
            EXT_SERVER_NAME => hello.server_name = server_name(data)?,
            EXT_ALPN => hello.alpn = alpn(data)?,
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(mut data: Reader<'_>) -> Option<String> {
    let mut names = Reader(data.vec16()?);
    while !names.0.is_empty() {
        let kind = names.take(1)?;
        let name = names.vec16()?;
        if kind == [0] {
            return Some(host_name(name));
        }
    }
    Some(String::new())
}

/// In lower case; what no host name has is replaced and the name marked, as Envoy does, so that it
/// matches nothing and may be logged.
fn host_name(bytes: &[u8]) -> String {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let shown = bytes.iter().map(|&byte| match byte {
        byte if legal(byte) => char::from(byte.to_ascii_lowercase()),
        _ => '_',
    });
    if bytes.iter().all(|&byte| legal(byte)) {
        shown.collect()
    } else {
        "invalid:".chars().chain(shown).collect()
    }
}

fn alpn(mut data: Reader<'_>) -> Option<Vec<String>> {
    let mut list = Reader(data.vec16()?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        // A protocol we cannot spell cannot be matched either (GREASE values, RFC 8701).
        if let Ok(protocol) = std::str::from_utf8(list.vec8()?) {
            protocols.push(protocol.to_owned());
        }
    }
    Some(protocols)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u16::from_be_bytes)
    }

    fn vec8(&mut self) -> Option<&'a [u8]> {
        let length = *self.take(1)?.first()?;
        self.take(usize::from(length))
    }

    fn vec16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::collection::vec;
    use proptest::prelude::any;
    use proptest::{prop_assert_eq, proptest};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::{ClientHello, Verdict, host_name, inspect_tls};

    fn hello(name: &str, alpn: &[&str]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let mut client =
            ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn another_handshake_message_is_none_however_much_of_it_is_there() {
        let mut bytes = hello("a", &[]);
        bytes[5] = 2; // A ServerHello.
        for end in [6, bytes.len()] {
            assert_eq!(inspect_tls(&bytes[..end]), Verdict::IsNot);
        }
    }

    #[test]
    fn name_and_protocols_are_read_and_every_prefix_asks_for_more() {
        let bytes = hello("Web.Example.com", &["h2", "istio"]);
        let want = ClientHello {
            server_name: "web.example.com".into(),
            alpn: vec!["h2".into(), "istio".into()],
        };
        assert_eq!(inspect_tls(&bytes), Verdict::Is(want));
        for end in 0..bytes.len() {
            assert_eq!(
                inspect_tls(&bytes[..end]),
                Verdict::More,
                "the first {end} bytes"
            );
        }
    }

    #[test]
    fn a_hello_in_small_records_is_put_together() {
        let bytes = hello("a.test", &["h2"]);
        let mut split = Vec::new();
        for part in bytes[5..].chunks(100) {
            split.extend_from_slice(&[22, 3, 1, 0, part.len() as u8]);
            split.extend_from_slice(part);
        }
        assert_eq!(inspect_tls(&split), inspect_tls(&bytes));
    }

    #[test]
    fn other_protocols_are_known_by_their_first_bytes() {
        for other in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x02",
            b"SSH-2.0-x",
            b"\x16\x03\x01\x00\x04\x02",
        ] {
            assert_eq!(inspect_tls(other), Verdict::IsNot, "{other:?}");
        }
        assert_eq!(inspect_tls(b""), Verdict::More);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..300)) {
            let _ = inspect_tls(&bytes);
            let mut handshake = vec![22, 3, 1, 1, 0];
            handshake.extend_from_slice(&bytes);
            let _ = inspect_tls(&handshake);
        }

        #[test]
        fn a_damaged_hello_never_panics(at in 0usize..200, with: u8) {
            let mut bytes = hello("a.test", &["h2"]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = with;
            }
            let first = inspect_tls(&bytes);
            prop_assert_eq!(inspect_tls(&bytes), first);
        }
    }
    #[test]
    fn names_that_are_none_are_marked() {
        assert_eq!(host_name(b"Web.example-1.com"), "web.example-1.com");
        assert_eq!(
            host_name(b"outbound_.80_._.web.base"),
            "outbound_.80_._.web.base"
        );
        assert_eq!(host_name(b"a\n\x1b[2J\xffend"), "invalid:a___2j_end");
        assert_eq!(host_name(b""), "");
    }
}
