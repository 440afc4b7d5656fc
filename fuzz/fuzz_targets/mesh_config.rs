//! See [`malla_fuzz::istio::mesh_config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::istio::mesh_config(data));
