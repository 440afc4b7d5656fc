//! Workload identity: from a private key to a mutually authenticated connection.
//!
//! Reading order:
//!
//! | module | one line |
//! |---|---|
//! | [`pem`] | certificates and keys from PEM, within limits |
//! | [`key`], [`csr`] | private keys, and requests to have them certified |
//! | [`credential`] | a certificate chain with its key; an X.509-SVID when it names a workload |
//! | [`bundle`], [`verify`] | whom we trust, and the one check every peer certificate passes |
//! | [`source`] | the current credential and bundle of a process, swapped while connections run |
//! | [`tls`] | rustls configurations over a source, and TLS under gRPC |
//! | [`rotate`] | when to renew: a state machine, and the task that follows it |
//! | [`authority`] | the mesh's certificate authority |
//! | [`ca_server`], [`ca_client`] | Istio's certificate service, both ends |
//!
//! Invariants: the crypto provider is an argument, never the process's default. What a peer sent
//! cannot panic us and is bounded in size before it is parsed. Rotation swaps values; it never
//! restarts a listener. The authority certifies the identity a caller proved, whatever it asked for.

pub mod authority;
pub mod bundle;
pub mod ca_client;
pub mod ca_server;
pub mod credential;
pub mod csr;
pub mod distinguished_name;
pub mod key;
pub mod pem;
pub mod rotate;
pub mod source;
pub mod tls;
pub mod verify;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The provider the whole house uses: aws-lc-rs. Make it once in `main` and pass it down.
#[must_use]
pub fn default_provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
