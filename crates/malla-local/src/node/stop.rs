//! Asks for an end, with a deadline.

use tokio::sync::watch;
use tokio::time::Instant;

/// A request to end, seen by all clones. A later request can only bring the deadline nearer.
#[derive(Debug, Clone)]
pub(super) struct Stop(watch::Sender<Option<Instant>>);

impl Stop {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    pub(super) fn request(&self, deadline: Instant) {
        self.0.send_if_modified(|known| {
            let nearer = known.is_none_or(|known| deadline < known);
            if nearer {
                *known = Some(deadline);
            }
            nearer
        });
    }

    /// The deadline, once an end was asked for.
    pub(super) fn deadline(&self) -> Option<Instant> {
        *self.0.borrow()
    }

    /// Waits for the request.
    pub(super) async fn requested(&self) {
        // The sender lives in self, so this only ends with a request.
        let mut watch = self.0.subscribe();
        let _asked = watch.wait_for(Option::is_some).await;
    }

    /// Waits for the deadline to pass, also when it is brought nearer meanwhile.
    pub(super) async fn passed(&self) {
        let mut watch = self.0.subscribe();
        loop {
            let deadline = *watch.borrow_and_update();
            let Some(deadline) = deadline else {
                let _asked = watch.changed().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => return,
                _ = watch.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Stop;

    #[tokio::test]
    async fn a_deadline_only_comes_nearer() {
        let stop = Stop::new();
        let begun = Instant::now();
        stop.request(begun + Duration::from_secs(300));
        let nearer = stop.clone();
        let asking = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            nearer.request(begun + Duration::from_millis(60));
            nearer.request(begun + Duration::from_secs(500));
        });
        stop.passed().await;
        let waited = begun.elapsed();
        assert!((60..5000).contains(&waited.as_millis()), "{waited:?}");
        asking.await.unwrap();
    }
}
