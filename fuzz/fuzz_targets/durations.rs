//! See [`malla_fuzz::istio::durations`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::istio::durations(data));
