//! See [`malla_fuzz::kubernetes::selectors`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::kubernetes::selectors(data));
