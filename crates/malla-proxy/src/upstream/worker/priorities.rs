//! Which priorities a retry leaves out (`previous_priorities`), by Envoy's rule.

/// The priorities to leave out after tries of `tried`, in order, where every `every`th try widens them; `None` while the
/// usual ones apply. Once no priority is left that is `usable` they begin anew.
pub(super) fn left_out(
    tried: &[u32],
    every: usize,
    usable: impl Fn(u32) -> bool + Copy,
    all: &[u32],
) -> Option<Vec<u32>> {
    let mut out: Vec<u32> = Vec::new();
    // Tries since they began anew.
    let mut since = 0;
    for now in 0..=tried.len() {
        let recent = tried.get(now - since..now).unwrap_or_default();
        if since >= every && since % every == 0 {
            out.extend(recent);
            if !all.iter().any(|one| usable(*one) && !out.contains(one)) {
                out.clear();
                since = 0;
            }
        }
        since += 1;
    }
    (!out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::left_out;

    #[test]
    fn priorities_come_round_again() {
        let check = |tried: &[u32], every, usable: &[u32], want: Option<&[u32]>| {
            let out = left_out(tried, every, |one| usable.contains(&one), &[0, 1, 2]);
            let out = out.map(|mut out| {
                out.sort_unstable();
                out.dedup();
                out
            });
            assert_eq!(out.as_deref(), want, "{tried:?}, every {every}, {usable:?}");
        };
        check(&[], 1, &[0, 1, 2], None);
        check(&[0], 1, &[0, 1, 2], Some(&[0]));
        check(&[0, 1], 1, &[0, 1, 2], Some(&[0, 1]));
        check(&[0, 1, 2], 1, &[0, 1, 2], None);
        check(&[0, 1, 2, 0], 1, &[0, 1, 2], Some(&[0]));
        // The second is not well.
        check(&[0, 2], 1, &[0, 2], None);
        check(&[0, 2, 0], 1, &[0, 2], Some(&[0]));
        check(&[0], 2, &[0, 1, 2], None);
        check(&[0, 0], 2, &[0, 1, 2], Some(&[0]));
        check(&[0, 0, 1], 2, &[0, 1, 2], Some(&[0]));
        check(&[0, 0, 1, 1], 2, &[0, 1, 2], Some(&[0, 1]));
        check(&[0, 0], 2, &[0], None);
    }
}
