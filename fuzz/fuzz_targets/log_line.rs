//! See [`malla_fuzz::telemetry::log_line`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::telemetry::log_line(data));
