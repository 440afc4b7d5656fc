//! See [`malla_fuzz::server::webhook_answer`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::server::webhook_answer(data));
