//! See [`malla_fuzz::server::body`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::server::body(data));
