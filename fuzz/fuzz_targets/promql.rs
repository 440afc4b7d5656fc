//! See [`malla_fuzz::telemetry::promql`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::telemetry::promql(data));
