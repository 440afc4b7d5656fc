//! See [`malla_fuzz::proxy::path`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::proxy::path(data));
