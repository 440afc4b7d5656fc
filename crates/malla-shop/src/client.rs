//! A source of load: asks who user 1 is, several times at once, and prints what it hears.

use std::io::Write as _;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;

use crate::serve::{self, Answer, Answers, plain};
use crate::upstream::Shop;
use crate::wire::User;

/// How hard to call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) concurrency: usize,
    /// Zero is a tight loop.
    pub(crate) interval: Duration,
}

struct Idle;

impl Answers for Idle {
    async fn answer(&self, _: Request<Incoming>) -> Answer {
        plain(StatusCode::OK, "this is a client\n")
    }
}

/// Calls until the process is told to stop; its own port only says that it is there.
pub(crate) async fn run(listener: TcpListener, shop: Shop, pace: Pace) -> anyhow::Result<()> {
    tokio::select! {
        biased; // Stopping ends the calls.
        done = serve::run(listener, Idle) => done,
        () = call(shop, pace) => Ok(()),
    }
}

async fn call(shop: Shop, pace: Pace) {
    loop {
        // All at the same moment: that is what fills a connection pool of one.
        let calls = (0..pace.concurrency).map(|_| async {
            let line = line(&ask(&shop).await);
            // Nobody reading the log is no reason to stop calling.
            drop(writeln!(std::io::stdout().lock(), "{line}"));
        });
        futures_util::future::join_all(calls).await;
        tokio::time::sleep(pace.interval).await;
    }
}

async fn ask(shop: &Shop) -> Option<User> {
    let headers = HeaderMap::from_iter([(
        http::HeaderName::from_static("userid"),
        HeaderValue::from_static("1"),
    )]);
    let (status, body) = shop.get("user", "/user", headers).await.ok()?;
    if status != 200 {
        return None;
    }
    serde_json::from_slice(&body).ok()
}

/// Zero values where there was no answer.
fn line(user: &Option<User>) -> String {
    let (id, vip, name) = user
        .as_ref()
        .map_or((0, false, ""), |u| (u.user_id, u.vip, &*u.name));
    format!("UserID: {id}, Vip: {vip}, Name: {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_zero_values() {
        let kevin = User {
            user_id: 1,
            vip: true,
            name: "Kevin".into(),
            info: vec![],
        };
        assert_eq!(line(&Some(kevin)), "UserID: 1, Vip: true, Name: Kevin");
        assert_eq!(line(&None), "UserID: 0, Vip: false, Name: ");
    }
}
