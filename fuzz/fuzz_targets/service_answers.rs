//! See [`malla_fuzz::filters::service_answers`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::filters::service_answers(data));
