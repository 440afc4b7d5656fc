//! See [`malla_fuzz::server::request`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::server::request(data));
