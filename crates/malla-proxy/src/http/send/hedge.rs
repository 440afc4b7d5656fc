//! Tries side by side: one that takes too long goes on while the next one starts (`hedge_on_per_try_timeout`).
//!
//! As in Envoy, the first good answer is taken and the other tries end. An answer that a retry would follow is only taken
//! when no other try is under way.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response, StatusCode};
use malla_proxy_config::endpoints::Endpoint;
use malla_proxy_config::route::action::Forward;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Sent, Tries, choice_of, count_response, passed, quiet, reached};
use crate::http::body::{Flow, RequestBody};
use crate::http::connection::Context;
use crate::http::error::{ProxyError, Timeout};
use crate::http::exchange::Exchange;
use crate::http::response::BodyOf;
use crate::http::retry::{Answer, Retries};
use crate::http::selected::Selected;
use crate::telemetry::flags::Flag;
use crate::upstream::{Attempt, Choice, ClusterHandle, ResetKind, SendError, Upstreams};

/// How one of them ended.
struct Finish<B> {
    number: u32,
    result: Result<Response<B>, SendError>,
    attempt: Attempt,
}

/// One try under way, seen from outside.
struct Racer {
    number: u32,
    started: Instant,
    /// It has taken too long already.
    late: bool,
    /// Another one was started for it.
    followed: bool,
    seen: Rc<RefCell<Attempt>>,
}

type Race<B> = FuturesUnordered<Pin<Box<dyn Future<Output = Finish<B>>>>>;

enum Event<B> {
    Start,
    Finished(Box<Finish<B>>),
    /// This one takes too long.
    Late(usize),
    GlobalTimeout,
    TooLong,
}

/// The tries under way, and when the next one is to start.
struct Field<B> {
    race: Race<B>,
    racers: Vec<Racer>,
    next: Option<Instant>,
}

impl<B> Field<B> {
    /// Whether an answer may still come.
    fn is_open(&self) -> bool {
        !self.race.is_empty() || self.next.is_some()
    }

    fn take(&mut self, number: u32) -> Option<Racer> {
        let at = self
            .racers
            .iter()
            .position(|racer| racer.number == number)?;
        Some(self.racers.remove(at))
    }
}

impl<U: Upstreams> Tries<U> {
    /// Sends the request until an answer is to be passed on, with tries side by side.
    pub(super) async fn race(
        &mut self,
        x: &mut Exchange<U>,
        selected: &Selected,
        forward: &Forward,
        retries: &mut Retries,
    ) -> Result<Sent<BodyOf<U>>, ProxyError> {
        let mut field = Field {
            race: FuturesUnordered::new(),
            racers: Vec::new(),
            next: Some(Instant::now()),
        };
        let flow = Rc::clone(&x.flow);
        let idle = forward.retry.as_deref();
        let idle = idle.and_then(|policy| policy.per_try_idle_timeout);
        flow.try_idle.set(idle);
        loop {
            match self.event(&mut field, &flow, idle).await {
                Event::Start => {
                    field.next = None;
                    let request = self.request(x, selected, true);
                    self.tally(|group| &group.upstream_rq_total);
                    self.enter(x, &mut field, request);
                }
                Event::Late(at) => self.late(x, forward, retries, &mut field, at),
                Event::Finished(finish) => {
                    let end = self.finished(x, forward, retries, &mut field, *finish);
                    if let Some(end) = end {
                        return end;
                    }
                }
                Event::GlobalTimeout => return Err(self.all_late(x, &field)),
                Event::TooLong => {
                    self.handle.stats().upstream_rq_max_duration_reached.inc();
                    return Err(ProxyError::Timeout(Timeout::UpstreamStream));
                }
            }
        }
    }

    async fn event(
        &self,
        field: &mut Field<BodyOf<U>>,
        flow: &Flow,
        idle: Option<Duration>,
    ) -> Event<BodyOf<U>> {
        let slow = field.racers.iter().rposition(|racer| !racer.late);
        let started = slow.and_then(|at| field.racers.get(at));
        let started = started.map(|racer| racer.started);
        let late = async {
            let (Some(at), Some(started)) = (slow, started) else {
                return std::future::pending().await;
            };
            tokio::select! {
                () = passed(flow, Some(started), self.timeouts.per_try) => {}
                () = quiet(flow, started, idle) => {}
            }
            at
        };
        tokio::select! {
            biased; // An answer that is there counts, however late.
            Some(finish) = field.race.next() => Event::Finished(Box::new(finish)),
            () = reached(field.next) => Event::Start,
            () = passed(flow, None, self.timeouts.global) => Event::GlobalTimeout,
            at = late => Event::Late(at),
            () = reached(self.until) => Event::TooLong,
        }
    }

    /// Starts one more try.
    fn enter(
        &mut self,
        x: &mut Exchange<U>,
        field: &mut Field<BodyOf<U>>,
        request: Request<RequestBody>,
    ) {
        let Some(selected) = x.selected.clone() else {
            return;
        };
        let record = x.observer.record();
        let (number, started) = (record.attempts, Instant::now());
        let longest = self.handle.config().http.max_stream_duration;
        self.until = longest.map(|limit| started + limit);
        let seen = Rc::<RefCell<Attempt>>::default();
        let one = One {
            number,
            handle: self.handle.clone(),
            cx: Rc::clone(&x.cx),
            selected,
            tried: self.tried.clone(),
            hash: self.hash,
            https: record.scheme == "https",
            seen: Rc::clone(&seen),
        };
        field.race.push(Box::pin(one.send(request)));
        field.racers.push(Racer {
            number,
            started,
            late: false,
            followed: false,
            seen,
        });
    }

    /// A try takes too long: it goes on, and another one starts beside it while there are any left.
    fn late(
        &mut self,
        x: &mut Exchange<U>,
        forward: &Forward,
        retries: &mut Retries,
        field: &mut Field<BodyOf<U>>,
        at: usize,
    ) {
        let Some(racer) = field.racers.get_mut(at) else {
            return;
        };
        racer.late = true;
        x.record().attempt.clone_from(&racer.seen.borrow());
        self.handle.report_timeout(&racer.seen.borrow(), false);
        let stats = Arc::clone(self.handle.stats());
        match retries.beside() {
            Answer::Yes if self.admits(x, forward, &stats) => {
                racer.followed = true;
                self.timed_out = true;
                field.next = Some(Instant::now() + self.pause(x, retries, None));
            }
            answer => self.note_end(x, retries, answer, &stats, false),
        }
    }

    /// One try is over. Returns what comes of the request, if that is known now.
    fn finished(
        &mut self,
        x: &mut Exchange<U>,
        forward: &Forward,
        retries: &mut Retries,
        field: &mut Field<BodyOf<U>>,
        finish: Finish<BodyOf<U>>,
    ) -> Option<Result<Sent<BodyOf<U>>, ProxyError>> {
        let followed = field
            .take(finish.number)
            .is_some_and(|racer| racer.followed);
        x.record().attempt = finish.attempt;
        let stats = Arc::clone(self.handle.stats());
        let response = match finish.result {
            Ok(response) => response,
            Err(error) => return self.failed(x, forward, retries, field, error, followed),
        };
        let (status, headers) = (response.status(), response.headers());
        let answer = match followed {
            true if retries.would_follow(status, headers) => Answer::Exhausted,
            true => Answer::No,
            false => retries.after_response(status, headers),
        };
        let bad = answer != Answer::No;
        if !followed && answer == Answer::Yes && self.admits(x, forward, &stats) {
            stats.codes.retried(status);
            let asked = retries.asked_wait(headers, SystemTime::now());
            self.timed_out = false;
            field.next = Some(Instant::now() + self.pause(x, retries, asked));
            return None;
        }
        let retried = !followed && answer == Answer::No && status.is_success();
        let answer = if followed { Answer::No } else { answer };
        self.note_end(x, retries, answer, &stats, retried);
        if bad && field.is_open() {
            // Another one may be better.
            return None;
        }
        self.count(x, status, Some(headers));
        let deadline = self.deadline(x);
        Some(Ok(Sent {
            response,
            deadline,
            until: self.until,
            stats,
        }))
    }

    fn failed(
        &mut self,
        x: &mut Exchange<U>,
        forward: &Forward,
        retries: &mut Retries,
        field: &mut Field<BodyOf<U>>,
        error: SendError,
        followed: bool,
    ) -> Option<Result<Sent<BodyOf<U>>, ProxyError>> {
        let stats = Arc::clone(self.handle.stats());
        if matches!(&error, SendError::Reset(reset) if reset.kind == ResetKind::Downstream) {
            stats.upstream_rq_tx_reset.inc();
            return Some(Err(ProxyError::ClientGone));
        }
        self.note_error(x, &error);
        let answer = match followed {
            true => Answer::No,
            false => retries.after_error(&error),
        };
        if answer == Answer::Yes && self.admits(x, forward, &stats) {
            self.timed_out = false;
            field.next = Some(Instant::now() + self.pause(x, retries, None));
            return None;
        }
        let error = ProxyError::Upstream {
            error,
            retried: retries.made() > 0,
        };
        let status = error.clone().verdict().status;
        self.count(x, status, None);
        self.note_end(x, retries, answer, &stats, false);
        (!field.is_open()).then_some(Err(error))
    }

    /// No try was answered in time.
    fn all_late(&self, x: &mut Exchange<U>, field: &Field<BodyOf<U>>) -> ProxyError {
        let stats = self.handle.stats();
        let error = ProxyError::Timeout(super::Timeout::Response {
            alternative: self.timeouts.alternative,
        });
        let status: StatusCode = error.clone().verdict().status;
        for racer in &field.racers {
            stats.upstream_rq_timeout.inc();
            self.tally(|group| &group.upstream_rq_timeout);
            let attempt = racer.seen.borrow();
            if !racer.late {
                self.handle.report_timeout(&attempt, true);
            }
            count_response(stats, status, x.internal, &attempt, None);
            x.record().attempt.clone_from(&attempt);
        }
        x.record().flags.set(Flag::UpstreamRequestTimeout);
        error
    }
}

/// What one try needs of its own.
struct One<U: Upstreams> {
    number: u32,
    handle: U::Handle,
    cx: Rc<Context<U>>,
    selected: Rc<Selected>,
    tried: SmallVec<[Arc<Endpoint>; 2]>,
    hash: Option<u64>,
    https: bool,
    seen: Rc<RefCell<Attempt>>,
}

impl<U: Upstreams> One<U> {
    async fn send(self, request: Request<RequestBody>) -> Finish<BodyOf<U>> {
        let mut attempt = Attempt::default();
        let result = match self.selected.forward() {
            None => Err(SendError::NoHealthyHost),
            Some(forward) => {
                let choice = Choice {
                    hash: self.hash,
                    tried: &self.tried,
                    https: self.https,
                    seen: Some(&self.seen),
                    ..choice_of(Some(&self.selected), forward, &self.cx.connection)
                };
                self.handle.send(request, &choice, &mut attempt).await
            }
        };
        Finish {
            number: self.number,
            result,
            attempt,
        }
    }
}
