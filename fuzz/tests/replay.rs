//! Every kept input through its target, whole and damaged, without libFuzzer.

use std::fs;
use std::path::{Path, PathBuf};

use malla_fuzz::ALL;

/// Damaged copies of each input.
const COPIES: u64 = 8;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|file| (file.clone(), fs::read(file).expect("a readable file")))
        .collect()
}

/// A copy with a few bytes changed, the same every time.
fn damaged(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ bytes.len() as u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below.max(1) as u64).expect("below a usize")
    };
    let mut copy = bytes.to_vec();
    for _ in 0..=next(4) {
        let at = next(copy.len());
        match next(4) {
            0 => copy.truncate(at),
            1 => copy.insert(at, u8::try_from(next(256)).expect("below 256")),
            _ => copy
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|byte| *byte ^= 1 << next(8)),
        }
    }
    copy
}

#[test]
fn kept_inputs_hold() {
    for (name, target) in ALL {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name} has no inputs");
        for (file, bytes) in corpus {
            let run = || {
                target(&bytes);
                (1..=COPIES).for_each(|seed| target(&damaged(&bytes, seed)));
            };
            if let Err(panic) = std::panic::catch_unwind(run) {
                eprintln!("while replaying {}", file.display());
                std::panic::resume_unwind(panic);
            }
        }
    }
}
