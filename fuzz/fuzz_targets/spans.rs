//! See [`malla_fuzz::telemetry::spans`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::telemetry::spans(data));
