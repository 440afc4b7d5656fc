//! See [`malla_fuzz::proxy::xds_resource`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::proxy::xds_resource(data));
