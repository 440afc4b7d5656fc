//! Bounds on what tokens cost: an accepted token is remembered for seconds, and only so many are
//! reviewed at a time.
//!
//! Invariants: only acceptance is remembered, for less time than Kubernetes itself takes to forget a
//! deleted account; no token is kept, only its SHA-256.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use malla_identity::ca_server::Denied;
use malla_model::SpiffeId;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// How long an accepted token is not asked about again (Kubernetes' own: 10 s).
const REMEMBERED: Duration = Duration::from_secs(10);
/// Accepted tokens remembered at a time; beyond that every one is asked about.
const MOST: usize = 16_384;
/// Reviews under way at a time.
const AT_A_TIME: usize = 64;
/// How long a token waits for its turn, and then for its review.
const PATIENCE: Duration = Duration::from_secs(5);

type Hash = [u8; 32];

#[derive(Debug)]
pub(super) struct Reviews {
    accepted: Mutex<HashMap<Hash, (SpiffeId, Instant)>>,
    turns: Semaphore,
    patience: Duration,
}

impl Default for Reviews {
    fn default() -> Self {
        Self::new(AT_A_TIME, PATIENCE)
    }
}

impl Reviews {
    fn new(at_a_time: usize, patience: Duration) -> Self {
        Self {
            accepted: Mutex::default(),
            turns: Semaphore::new(at_a_time),
            patience,
        }
    }

    /// Who shows `token` for `audience`: as remembered, else as `ask` finds out.
    pub(super) async fn identify(
        &self,
        token: &str,
        audience: &str,
        ask: impl Future<Output = Result<SpiffeId, Denied>>,
    ) -> Result<SpiffeId, Denied> {
        let key = key(token, audience);
        if let Some(known) = self.remembered(&key, Instant::now()) {
            return Ok(known);
        }
        let busy = |_| Denied::Unavailable("too many tokens are being reviewed".to_owned());
        let turn = timeout(self.patience, self.turns.acquire()).await;
        let _turn = turn.map_err(busy)?;
        // A connection of the same pod may have been faster.
        if let Some(known) = self.remembered(&key, Instant::now()) {
            return Ok(known);
        }
        let identity = timeout(self.patience, ask).await.map_err(|_| {
            Denied::Unavailable("the API server does not answer a TokenReview".to_owned())
        })??;
        self.remember(key, &identity, Instant::now());
        Ok(identity)
    }

    fn remembered(&self, key: &Hash, now: Instant) -> Option<SpiffeId> {
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let (identity, until) = accepted.get(key)?;
        (now < *until).then(|| identity.clone())
    }

    fn remember(&self, key: Hash, identity: &SpiffeId, now: Instant) {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted.len() >= MOST {
            accepted.retain(|_, (_, until)| now < *until);
        }
        if accepted.len() < MOST {
            accepted.insert(key, (identity.clone(), now + REMEMBERED));
        }
    }
}

/// Lengths keep the two texts apart.
fn key(token: &str, audience: &str) -> Hash {
    let text = format!("{}:{audience}{token}", audience.len());
    let mut key = Hash::default();
    for (to, from) in key
        .iter_mut()
        .zip(digest(&SHA256, text.as_bytes()).as_ref())
    {
        *to = *from;
    }
    key
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use malla_model::TrustDomain;

    use super::*;

    #[tokio::test]
    async fn an_accepted_token_is_asked_about_once_in_a_while() {
        let reviews = Reviews::default();
        let cart = SpiffeId::new(&TrustDomain::default(), "base", "cart");
        let asked = Cell::new(0);
        let ask = || async {
            asked.set(asked.get() + 1);
            Ok(cart.clone())
        };
        for _ in 0..3 {
            let known = reviews.identify("a.b.c", "istio-ca", ask()).await;
            assert_eq!(known, Ok(cart.clone()));
        }
        assert_eq!(asked.get(), 1);
        reviews.identify("a.b.c", "other", ask()).await.unwrap();
        assert_eq!(asked.get(), 2, "another audience is another question");
        let later = Instant::now() + REMEMBERED;
        assert_eq!(reviews.remembered(&key("a.b.c", "istio-ca"), later), None);
    }

    #[tokio::test]
    async fn a_refused_token_is_not_remembered() {
        let reviews = Reviews::default();
        let refused = Err(Denied::BadProof("no".into()));
        let first = reviews.identify("t", "istio-ca", async { refused.clone() });
        assert_eq!(first.await, refused);
        let cart = SpiffeId::new(&TrustDomain::default(), "base", "cart");
        let second = reviews.identify("t", "istio-ca", async { Ok(cart.clone()) });
        assert_eq!(second.await, Ok(cart.clone()));
    }

    #[tokio::test]
    async fn reviews_wait_for_their_turn_but_not_for_ever() {
        let reviews = Reviews::new(1, Duration::from_millis(20));
        let _taken = reviews.turns.acquire().await.unwrap();
        let cart = SpiffeId::new(&TrustDomain::default(), "base", "cart");
        let denied = reviews.identify("t", "istio-ca", async { Ok(cart) }).await;
        assert!(matches!(denied, Err(Denied::Unavailable(_))), "{denied:?}");
    }
}
