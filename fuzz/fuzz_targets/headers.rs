//! See [`malla_fuzz::proxy::headers`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::proxy::headers(data));
