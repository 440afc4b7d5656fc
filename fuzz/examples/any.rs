#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static T: std::sync::LazyLock<fn(&[u8])> = std::sync::LazyLock::new(|| {
        let n = std::env::var("FUZZ_TARGET").unwrap();
        malla_fuzz::ALL.iter().find(|(k, _)| *k == n).unwrap().1
    });
    T(data)
});
