//! See [`malla_fuzz::server::websocket`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::server::websocket(data));
