//! Identities among real peers: rustls with rustls, OpenSSL, and the certificate service over gRPC.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

#[path = "identity/ca_service.rs"]
mod ca_service;
#[path = "identity/mutual_tls.rs"]
mod mutual_tls;
#[path = "identity/openssl.rs"]
mod openssl;
#[path = "identity/support.rs"]
mod support;
