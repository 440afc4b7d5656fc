//! See [`malla_fuzz::proxy::log_format`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::proxy::log_format(data));
