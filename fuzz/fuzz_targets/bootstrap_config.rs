//! See [`malla_fuzz::proxy::bootstrap_config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::proxy::bootstrap_config(data));
