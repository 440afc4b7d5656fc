//! Header blocks of SPDY/3: name-value pairs in one zlib stream for each direction of a session, over a dictionary
//! that both ends know (draft-mbelshe-httpbis-spdy-00 §2.6.10.1).

use bytes::{Buf, Bytes};
use flate2::{Decompress, FlushDecompress};

use super::SpdyError;

/// Longest block, inflated.
const MAX_BLOCK: usize = 16 * 1024;
const MAX_HEADERS: u32 = 64;

/// Words of the dictionary; each stands there with its length before it, four bytes.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host \
    if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

/// What follows the words.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// Reads the blocks of one direction, in their order.
#[derive(Debug)]
pub(super) struct HeaderReader {
    /// Raw deflate: the zlib header of the first block is read here.
    inflate: Decompress,
    begun: bool,
}

impl HeaderReader {
    pub(super) fn new() -> Self {
        Self {
            inflate: Decompress::new(false),
            begun: false,
        }
    }

    pub(super) fn read(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, SpdyError> {
        let block = self.begin(block)?;
        let plain = self.inflate(block)?;
        pairs(plain.into()).ok_or(SpdyError::Headers)
    }

    /// Reads the zlib header (RFC 1950 §2.2) off the first block.
    fn begin<'a>(&mut self, block: &'a [u8]) -> Result<&'a [u8], SpdyError> {
        if self.begun {
            return Ok(block);
        }
        self.begun = true;
        let Some((&[method, flags], rest)) = block.split_first_chunk() else {
            return Err(SpdyError::Headers);
        };
        if method & 0x0f != 8 || u16::from_be_bytes([method, flags]) % 31 != 0 {
            return Err(SpdyError::Headers);
        }
        if flags & 0x20 == 0 {
            return Ok(rest);
        }
        // A stored block is what came before, so the dictionary can be given as one.
        self.inflate(&stored(&dictionary()))?;
        let (_checksum, rest) = rest.split_at_checked(4).ok_or(SpdyError::Headers)?;
        Ok(rest)
    }

    fn inflate(&mut self, deflated: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut plain = Vec::with_capacity(MAX_BLOCK);
        let before = self.inflate.total_in();
        self.inflate
            .decompress_vec(deflated, &mut plain, FlushDecompress::Sync)
            .map_err(|_| SpdyError::Headers)?;
        let read = self.inflate.total_in().saturating_sub(before);
        match u64::try_from(deflated.len()) {
            Ok(length) if length == read => Ok(plain),
            _ => Err(SpdyError::Headers),
        }
    }
}

fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::new();
    for word in WORDS.split_ascii_whitespace() {
        let word = word.replace('_', " ");
        let length = u32::try_from(word.len()).unwrap_or_default();
        dictionary.extend_from_slice(&length.to_be_bytes());
        dictionary.extend_from_slice(word.as_bytes());
    }
    dictionary.extend_from_slice(TAIL.as_bytes());
    dictionary
}

/// One stored block (RFC 1951 §3.2.4) that is not the last; of fewer than 64 KiB.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or_default();
    let mut block = vec![0];
    block.extend_from_slice(&length.to_le_bytes());
    block.extend_from_slice(&(!length).to_le_bytes());
    block.extend_from_slice(bytes);
    block
}

/// The pairs of an inflated block.
fn pairs(mut block: Bytes) -> Option<Vec<(String, String)>> {
    let count = block
        .try_get_u32()
        .ok()
        .filter(|count| *count <= MAX_HEADERS)?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        pairs.push((text(&mut block)?.to_ascii_lowercase(), text(&mut block)?));
    }
    Some(pairs)
}

fn text(block: &mut Bytes) -> Option<String> {
    let length = usize::try_from(block.try_get_u32().ok()?).ok()?;
    if length > block.len() {
        return None;
    }
    String::from_utf8(block.split_to(length).into()).ok()
}

#[cfg(test)]
mod tests {
    use base64::Engine;

    use super::*;

    #[test]
    fn the_dictionary_is_the_drafts() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        let (mut a, mut b) = (1u32, 0u32);
        for byte in &dictionary {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        // Its Adler-32, by which every client's first block names it.
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    /// What Kubernetes' clients open two streams with, as zlib compresses it: the second block refers to the first.
    #[test]
    fn what_clients_compress_is_read() {
        let decode = |text| base64::prelude::BASE64_STANDARD.decode(text).unwrap();
        let mut reader = HeaderReader::new();
        let first = reader.read(&decode(FIRST)).unwrap();
        let second = reader.read(&decode(SECOND)).unwrap();
        let of = |pairs: &[(String, String)], name: &str| {
            super::super::Frame::header(pairs, name).map(str::to_owned)
        };
        assert_eq!(of(&first, "streamtype").as_deref(), Some("error"));
        assert_eq!(of(&second, "streamtype").as_deref(), Some("data"));
        for pairs in [&first, &second] {
            assert_eq!(of(pairs, "port").as_deref(), Some("15012"));
            assert_eq!(of(pairs, "requestid").as_deref(), Some("0"));
        }
    }

    #[test]
    fn a_block_that_inflates_without_end_is_refused() {
        let mut deflate = flate2::Compress::new(flate2::Compression::best(), true);
        let mut bomb = Vec::with_capacity(4096);
        deflate
            .compress_vec(&vec![0; 1 << 20], &mut bomb, flate2::FlushCompress::Sync)
            .unwrap();
        assert_eq!(HeaderReader::new().read(&bomb), Err(SpdyError::Headers));
    }

    const FIRST: &str = "ePnjxqfCAiU6cDorKUpNzIUWJaypoICGFMtFoCTMaggMdSMgg7MIEo+ZoPTNaAAAAAD//w==";
    const SECOND: &str = "wqobVBAlEqEZAAAA//8=";
}
