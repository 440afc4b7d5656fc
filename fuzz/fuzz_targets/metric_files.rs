//! See [`malla_fuzz::telemetry::metric_files`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::telemetry::metric_files(data));
