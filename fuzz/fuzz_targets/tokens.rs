//! See [`malla_fuzz::filters::tokens`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::filters::tokens(data));
