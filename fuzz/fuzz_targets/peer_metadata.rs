//! See [`malla_fuzz::proxy::peer_metadata`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::proxy::peer_metadata(data));
