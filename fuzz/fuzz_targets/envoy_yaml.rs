//! See [`malla_fuzz::xds::envoy_yaml`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::xds::envoy_yaml(data));
