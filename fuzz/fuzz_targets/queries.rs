//! See [`malla_fuzz::filters::queries`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::filters::queries(data));
