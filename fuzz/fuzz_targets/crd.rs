//! See [`malla_fuzz::kubernetes::crd`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::kubernetes::crd(data));
