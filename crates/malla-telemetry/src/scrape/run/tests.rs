//! The loop against a real HTTP server that changes its mind.

use std::sync::atomic::AtomicBool;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tracing::Span;

use super::*;
use crate::metrics::{Matcher, MetricsConfig, is_stale};

#[test]
fn times_are_aligned_unless_late() {
    let every = Duration::from_secs(5);
    let mut nominal = None;
    let at: Vec<i64> = [1_000, 6_003, 11_040, 16_400, 31_399, 31_500]
        .map(|now| aligned(&mut nominal, now, every))
        .into();
    assert_eq!(at, [1_000, 6_000, 11_000, 16_400, 31_400, 31_500]);
}

async fn serve(answer: Arc<AtomicBool>) -> (String, AbortOnDrop<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().route(
        "/metrics",
        get(move || async move {
            match answer.load(Ordering::Relaxed) {
                true => (StatusCode::OK, "# TYPE a counter\na{b=\"c\"} 1\n"),
                false => (StatusCode::SERVICE_UNAVAILABLE, ""),
            }
        }),
    );
    let task = AbortOnDrop::spawn(Span::none(), async move {
        axum::serve(listener, app).await.unwrap();
    });
    (format!("http://{address}/metrics"), task)
}

async fn until(store: &MetricStore, name: &str, accept: impl Fn(f64) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let matcher = [Matcher::equal("__name__", name)];
        let found = store.select(&matcher, 0, i64::MAX, u64::MAX).unwrap();
        let last = found.first().and_then(|s| s.samples.last().copied());
        if last.is_some_and(|sample| accept(sample.v)) {
            return;
        }
        assert!(Instant::now() < deadline, "{name}: {last:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_are_followed_from_up_to_gone() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(MetricStore::open(folder.path(), MetricsConfig::default()).unwrap());
    let healthy = Arc::new(AtomicBool::new(true));
    let (url, _server) = serve(healthy.clone()).await;
    let config = ScrapeConfig {
        interval: Duration::from_millis(50),
        ..ScrapeConfig::default()
    };
    let scraper = Arc::new(Scraper::new(config, store.clone(), Clock::system()));
    let target = Target::pod(&url, "istio", "base", "web-1");
    let (list, seen) = watch::channel(vec![target]);
    let _task = AbortOnDrop::spawn(Span::none(), scraper.clone().run(seen));

    until(&store, "a", |v| v == 1.0).await;
    until(&store, "up", |v| v == 1.0).await;
    assert_eq!(scraper.metadata().get(Some("a"), 1)["a"][0].kind, "counter");
    healthy.store(false, Ordering::Relaxed);
    until(&store, "up", |v| v == 0.0).await;
    until(&store, "a", is_stale).await;
    healthy.store(true, Ordering::Relaxed);
    until(&store, "a", |v| v == 1.0).await;
    list.send(Vec::new()).unwrap();
    until(&store, "up", is_stale).await;
    assert_eq!(scraper.stats().targets, 0);
}
