//! See [`malla_fuzz::server::spdy`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::server::spdy(data));
