//! See [`malla_fuzz::identity::csr`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::identity::csr(data));
