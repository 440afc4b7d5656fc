//! See [`malla_fuzz::cluster::node_texts`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::cluster::node_texts(data));
