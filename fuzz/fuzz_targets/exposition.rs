//! See [`malla_fuzz::telemetry::exposition`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::telemetry::exposition(data));
