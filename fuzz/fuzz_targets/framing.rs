//! See [`malla_fuzz::proxy::framing`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::proxy::framing(data));
