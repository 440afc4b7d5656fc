//! See [`malla_fuzz::server::token`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::server::token(data));
