//! See [`malla_fuzz::filters::grpc_web`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| malla_fuzz::filters::grpc_web(data));
