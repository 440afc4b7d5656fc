//! See [`malla_fuzz::cluster::dns`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::cluster::dns(data));
