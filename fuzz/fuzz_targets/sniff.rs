//! See [`malla_fuzz::proxy::sniff`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::proxy::sniff(data));
