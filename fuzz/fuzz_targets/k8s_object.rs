//! See [`malla_fuzz::kubernetes::object`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::kubernetes::object(data));
