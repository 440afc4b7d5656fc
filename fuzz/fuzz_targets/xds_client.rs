//! See [`malla_fuzz::protocol::client`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::protocol::client(data));
