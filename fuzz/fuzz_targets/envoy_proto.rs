//! See [`malla_fuzz::xds::envoy_proto`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::xds::envoy_proto(data));
