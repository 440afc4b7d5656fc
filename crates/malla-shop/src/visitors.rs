//! People who look around in the shop all day, so that there is something to see: a steady number of
//! requests a second, through the same door as everybody.
//!
//! They read and order, but put nothing into a cart: carts belong to whoever is at the browser.
//! `GET /count` tells what they did, for whoever wants to compare it with what the mesh says.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::serve::{self, Answer, Answers, full, plain};
use crate::upstream::Shop;

/// What they do, over and over: method, path, user.
const ROUND: [(Method, &str, u8); 10] = [
    (Method::GET, "/", 1),
    (Method::GET, "/product", 1),
    (Method::GET, "/user", 1),
    (Method::GET, "/product", 4),
    (Method::GET, "/list", 2),
    (Method::POST, "/order", 1),
    (Method::GET, "/product", 2),
    (Method::GET, "/user", 5),
    (Method::GET, "/list", 3),
    (Method::POST, "/order", 5),
];

const BASKET: &str = r#"{"Products":[{"Pid":2,"Price":50,"Num":1}]}"#;

/// As patient as the browser's page.
const PATIENCE: Duration = Duration::from_secs(15);

/// So many may be in the shop at a time; who comes when it is full goes away again.
const CROWD: usize = 200;

const REPORT: Duration = Duration::from_secs(10);

/// What became of the requests so far.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Count {
    sent: u64,
    /// By status; 0 where nothing came back.
    answered: BTreeMap<u16, u64>,
    /// Not sent, because too many were waiting.
    turned_away: u64,
}

#[derive(Debug, Clone, Default)]
struct Counted(Arc<Mutex<Count>>);

impl Counted {
    fn add(&self, change: impl FnOnce(&mut Count)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn now(&self) -> Count {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Answers for Counted {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if request.uri().path() != "/count" {
            return plain(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        match serde_json::to_string(&self.now()) {
            Ok(text) => {
                let mut answer = Answer::new(full(text));
                let kind = HeaderValue::from_static("application/json");
                answer.headers_mut().insert(header::CONTENT_TYPE, kind);
                answer
            }
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

/// Visits `door` (`host` or `host:port`) until the process is told to stop.
pub(crate) async fn run(
    listener: TcpListener,
    shop: Shop,
    door: String,
    per_second: f64,
) -> anyhow::Result<()> {
    let counted = Counted::default();
    tokio::select! {
        biased; // Stopping ends the visits.
        done = serve::run(listener, counted.clone()) => done,
        () = visit(shop, &door, per_second, &counted) => Ok(()),
    }
}

async fn visit(shop: Shop, door: &str, per_second: f64, counted: &Counted) {
    let mut tick = interval(Duration::from_secs_f64(
        1.0 / per_second.clamp(0.01, 1000.0),
    ));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let room = Arc::new(Semaphore::new(CROWD));
    let mut visits = JoinSet::new();
    let mut reported = Instant::now();
    for (method, path, user) in ROUND.iter().cycle() {
        tick.tick().await;
        while visits.try_join_next().is_some() {}
        if reported.elapsed() >= REPORT {
            reported = Instant::now();
            report(&counted.now());
        }
        let Ok(place) = room.clone().try_acquire_owned() else {
            counted.add(|count| count.turned_away += 1);
            continue;
        };
        let Ok(request) = request(method, door, path, *user) else {
            continue;
        };
        counted.add(|count| count.sent += 1);
        let (shop, counted) = (shop.clone(), counted.clone());
        visits.spawn(async move {
            let status = timeout(PATIENCE, ask(&shop, request)).await;
            let status = status.ok().flatten().unwrap_or(0);
            counted.add(|count| *count.answered.entry(status).or_default() += 1);
            drop(place);
        });
    }
}

fn request(
    method: &Method,
    door: &str,
    path: &str,
    user: u8,
) -> http::Result<Request<serve::Body>> {
    let vip = if user <= 3 { "vip=true" } else { "vip=false" };
    let body = if *method == Method::POST { BASKET } else { "" };
    Request::builder()
        .method(method)
        .uri(format!("http://{door}{path}"))
        .header("userid", user.to_string())
        .header(header::COOKIE, vip)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, "malla-shop visitor")
        .body(full(body))
}

async fn ask(shop: &Shop, request: Request<serve::Body>) -> Option<u16> {
    let answer = shop.send(request).await.ok()?;
    let status = answer.status().as_u16();
    answer.into_body().collect().await.ok()?;
    Some(status)
}

fn report(count: &Count) {
    let answered: Vec<String> = count
        .answered
        .iter()
        .map(|(status, times)| match status {
            0 => format!("no answer {times}"),
            status => format!("{status}: {times}"),
        })
        .collect();
    // Nobody reading the log is no reason to stop visiting.
    drop(writeln!(
        std::io::stdout().lock(),
        "sent {}; {}; turned away {}",
        count.sent,
        answered.join(", "),
        count.turned_away
    ));
}

#[cfg(test)]
mod tests {
    use super::{ROUND, request};

    #[test]
    fn everybody_asks_what_the_shop_knows() {
        for (method, path, user) in &ROUND {
            let request = request(method, "gateway", path, *user).unwrap();
            assert_eq!(request.uri().host(), Some("gateway"));
            assert!((1..=5).contains(user), "{path}");
            assert!(!["/cart", "/clear"].contains(path), "{path} changes carts");
        }
    }
}
