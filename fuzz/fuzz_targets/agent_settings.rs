//! See [`malla_fuzz::cluster::agent_settings`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::cluster::agent_settings(data));
