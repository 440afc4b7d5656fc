//! rustls configurations over a [`CertSource`](crate::source::CertSource), and TLS under gRPC.
//!
//! [`server`] and [`client`] build configurations that look the current credential and bundle up at
//! every handshake; [`sessions`] makes resumption forget peers when trust changes; [`verifier`] puts
//! [`crate::verify`] into rustls; [`grpc`] carries tonic.

pub mod client;
pub mod grpc;
pub mod server;
mod sessions;
mod verifier;

pub use client::{ClientOptions, client_config};
pub use server::{ClientAuth, ServerOptions, server_config};

use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::source::CertSource;

/// ALPN of Istio's mesh-internal connections, in the order Istio's sidecars offer them.
pub const ISTIO_ALPN: [&[u8]; 3] = [b"istio-peer-exchange", b"istio", b"h2"];

/// Hands rustls the source's current credential.
#[derive(Debug)]
struct Current(CertSource);

impl Current {
    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.0
            .credential()
            .map(|credential| credential.certified().clone())
    }
}

impl rustls::server::ResolvesServerCert for Current {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl rustls::client::ResolvesClientCert for Current {
    fn resolve(
        &self,
        _root_hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        // Asked once, when a configuration is built; the credential may come later.
        true
    }
}
