//! See [`malla_fuzz::filters::trace_contexts`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::filters::trace_contexts(data));
