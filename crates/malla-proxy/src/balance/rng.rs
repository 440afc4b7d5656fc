//! A small seeded generator for picks: SplitMix64, so that tests can repeat a run and workers need no shared state.

/// Not for secrets: host choice, weights and jitter only.
#[derive(Clone, Debug)]
pub struct Rng64(u64);

impl Rng64 {
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
    #[expect(
        clippy::should_implement_trait,
        reason = "never ends, so it is no iterator"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
