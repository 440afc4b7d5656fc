//! See [`malla_fuzz::identity::certificates`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::identity::certificates(data));
