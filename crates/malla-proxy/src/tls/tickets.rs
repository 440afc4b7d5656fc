//! Session tickets that several proxies can read: keys from the configuration (`session_ticket_keys`).
//!
//! A ticket is the key's name (16 bytes), a nonce, and the session sealed with AES-256-GCM. Envoy's keys have the same 80
//! bytes; its tickets hold BoringSSL's sessions, so the two cannot read each other's, only those of their own kind.
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest;
use rustls::server::ProducesTickets;

/// Bytes of a key's name.
const NAME: usize = 16;
/// Seconds for which a ticket is good; keys are expected to change more often than sessions matter.
const LIFETIME: u32 = 12 * 3600;

/// The keys; the first one writes.
pub(super) struct SharedTickets {
    keys: Vec<Key>,
}

struct Key {
    name: [u8; NAME],
    seal: RandomizedNonceKey,
}

impl SharedTickets {
    /// `keys` is not empty; each is a name of 16 bytes and 64 secret ones.
    pub(super) fn new(keys: &[[u8; 80]]) -> Result<Self, rustls::Error> {
        let failed = |_| rustls::Error::General("a session ticket key cannot be used".to_owned());
        let key = |bytes: &[u8; 80]| {
            let (name, secret) = bytes.split_at(NAME);
            let mut own = [0; NAME];
            own.copy_from_slice(name);
            let derived = digest::digest(&digest::SHA256, secret);
            let seal = RandomizedNonceKey::new(&AES_256_GCM, derived.as_ref()).map_err(failed)?;
            Ok(Key { name: own, seal })
        };
        let keys = keys.iter().map(key).collect::<Result<_, rustls::Error>>()?;
        Ok(Self { keys })
    }
}

impl fmt::Debug for SharedTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTickets")
            .field("keys", &self.keys.len())
            .finish()
    }
}

impl ProducesTickets for SharedTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut sealed = plain.to_vec();
        let aad = Aad::from(&key.name);
        let nonce = key.seal.seal_in_place_append_tag(aad, &mut sealed).ok()?;
        let mut ticket = key.name.to_vec();
        ticket.extend(nonce.as_ref());
        ticket.extend(sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let key = self.keys.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let plain = key
            .seal
            .open_in_place(nonce, Aad::from(&key.name), &mut sealed)
            .ok()?;
        Some(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::SharedTickets;
    use rustls::server::ProducesTickets;

    #[test]
    fn whoever_has_the_key_reads_the_ticket() {
        let (old, new) = ([1; 80], [2; 80]);
        let writer = SharedTickets::new(&[old]).unwrap();
        let ticket = writer.encrypt(b"session").unwrap();
        let rotated = SharedTickets::new(&[new, old]).unwrap();
        assert_eq!(rotated.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(SharedTickets::new(&[new]).unwrap().decrypt(&ticket), None);
        for cut in 0..ticket.len() {
            assert_eq!(writer.decrypt(&ticket[..cut]), None, "{cut} bytes");
        }
        let mut forged = ticket;
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(writer.decrypt(&forged), None);
    }
}
