//! HPACK (RFC 7541), as much of it as a peer that is under control of a test needs.
//!
//! Fields are written as literals that nobody indexes, so that a test says every byte. Reading knows the tables; Huffman
//! codes beyond ASCII are shown as `?`.

use std::collections::VecDeque;

/// One field.
pub(crate) type Field = (String, String);

const CODES: [u32; 128] = [
    0x1ff8, 0x7fffd8, 0xfffffe2, 0xfffffe3, 0xfffffe4, 0xfffffe5, 0xfffffe6, 0xfffffe7, 0xfffffe8,
    0xffffea, 0x3ffffffc, 0xfffffe9, 0xfffffea, 0x3ffffffd, 0xfffffeb, 0xfffffec, 0xfffffed,
    0xfffffee, 0xfffffef, 0xffffff0, 0xffffff1, 0xffffff2, 0x3ffffffe, 0xffffff3, 0xffffff4,
    0xffffff5, 0xffffff6, 0xffffff7, 0xffffff8, 0xffffff9, 0xffffffa, 0xffffffb, 0x14, 0x3f8,
    0x3f9, 0xffa, 0x1ff9, 0x15, 0xf8, 0x7fa, 0x3fa, 0x3fb, 0xf9, 0x7fb, 0xfa, 0x16, 0x17, 0x18,
    0x0, 0x1, 0x2, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x5c, 0xfb, 0x7ffc, 0x20, 0xffb,
    0x3fc, 0x1ffa, 0x21, 0x5d, 0x5e, 0x5f, 0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
    0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f, 0x70, 0x71, 0x72, 0xfc, 0x73, 0xfd, 0x1ffb, 0x7fff0,
    0x1ffc, 0x3ffc, 0x22, 0x7ffd, 0x3, 0x23, 0x4, 0x24, 0x5, 0x25, 0x26, 0x27, 0x6, 0x74, 0x75,
    0x28, 0x29, 0x2a, 0x7, 0x2b, 0x76, 0x2c, 0x8, 0x9, 0x2d, 0x77, 0x78, 0x79, 0x7a, 0x7b, 0x7ffe,
    0x7fc, 0x3ffd, 0x1ffd, 0xffffffc,
];
const BITS: [u8; 128] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
];
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Writes fields; bytes as they are given, whatever they are.
pub(crate) fn write(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            write_integer(&mut out, text.len(), 7);
            out.extend_from_slice(text);
        }
    }
    out
}

fn write_integer(out: &mut Vec<u8>, value: usize, prefix: u32) {
    let most = (1 << prefix) - 1;
    if value < most {
        out.push(u8::try_from(value).unwrap());
        return;
    }
    out.push(u8::try_from(most).unwrap());
    let mut rest = value - most;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

/// What is left to read, and the table that grew by reading.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    table: VecDeque<Field>,
}

impl Decoder {
    /// The fields of one block.
    pub(crate) fn read(&mut self, block: &[u8]) -> Vec<Field> {
        let mut bytes = block.iter().copied();
        let mut fields = Vec::new();
        while let Some(first) = bytes.next() {
            if first & 0x80 != 0 {
                let index = integer(first, 7, &mut bytes);
                fields.push(self.entry(index));
            } else if first & 0xe0 == 0x20 {
                // The table's size; nothing that is read here outgrows the default.
                integer(first, 5, &mut bytes);
            } else {
                let indexed = first & 0x40 != 0;
                let index = integer(first, if indexed { 6 } else { 4 }, &mut bytes);
                let name = if index == 0 {
                    text(&mut bytes)
                } else {
                    self.entry(index).0
                };
                let field = (name, text(&mut bytes));
                if indexed {
                    self.table.push_front(field.clone());
                }
                fields.push(field);
            }
        }
        fields
    }

    fn entry(&self, index: usize) -> Field {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let known = STATIC.get(index.wrapping_sub(1)).map(own);
        let learnt = || self.table.get(index.wrapping_sub(62)).cloned();
        known
            .or_else(learnt)
            .unwrap_or_else(|| (format!("<entry {index}>"), String::new()))
    }
}

fn integer(first: u8, prefix: u32, bytes: &mut impl Iterator<Item = u8>) -> usize {
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(first) & most;
    if value < most {
        return value;
    }
    for (at, byte) in bytes.enumerate().take(4) {
        value += usize::from(byte & 127) << (7 * at);
        if byte & 128 == 0 {
            break;
        }
    }
    value
}

fn text(bytes: &mut impl Iterator<Item = u8>) -> String {
    let first = bytes.next().unwrap_or_default();
    let length = integer(first, 7, bytes);
    let raw: Vec<u8> = bytes.take(length).collect();
    if first & 0x80 == 0 {
        return String::from_utf8_lossy(&raw).into_owned();
    }
    huffman(&raw)
}

fn huffman(raw: &[u8]) -> String {
    let mut out = String::new();
    let (mut code, mut bits) = (0_u32, 0_u8);
    for byte in raw {
        for at in (0..8).rev() {
            code = code << 1 | u32::from(byte >> at & 1);
            bits += 1;
            let found = (0..128).find(|n| BITS[*n] == bits && CODES[*n] == code);
            if let Some(found) = found {
                out.push(char::from(u8::try_from(found).unwrap()));
                (code, bits) = (0, 0);
            } else if bits >= 30 {
                out.push('?');
                (code, bits) = (0, 0);
            }
        }
    }
    out
}

#[test]
fn the_examples_of_the_standard_are_read() {
    // RFC 7541 C.4.1 and C.4.2.
    let mut decoder = Decoder::default();
    let first = [
        0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90,
        0xf4, 0xff,
    ];
    assert_eq!(
        decoder.read(&first)[3],
        (":authority".into(), "www.example.com".into())
    );
    let second = [
        0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf,
    ];
    let fields = decoder.read(&second);
    assert_eq!(fields[3].1, "www.example.com");
    assert_eq!(fields[4], ("cache-control".into(), "no-cache".into()));
}
