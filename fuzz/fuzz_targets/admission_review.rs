//! See [`malla_fuzz::cluster::admission_review`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::cluster::admission_review(data));
