//! See [`malla_fuzz::xds::node`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::xds::node(data));
