//! See [`malla_fuzz::filters::dns_answers`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::filters::dns_answers(data));
