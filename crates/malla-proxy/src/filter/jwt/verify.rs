//! Checks requirements: which tokens, of which providers, and what follows from them.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::uri::PathAndQuery;
use malla_proxy_config::http_filter::{JwtProvider, Requirement, sanitized};
use malla_proxy_config::metadata::Object;

use super::extract::{self, Found, Place};
use super::{NAMESPACE, claims, sanitise};
use crate::http::exchange::Exchange;
use crate::http::serve::route_again;
use crate::jwt::provider::JwtFilter;
use crate::jwt::status::Status;
use crate::jwt::token::Token;
use crate::upstream::Upstreams;

/// What is let pass beside good tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lenience {
    None,
    Missing,
    Failed,
}

/// A check of one request.
struct Check<'x, U: Upstreams> {
    x: &'x mut Exchange<U>,
    filter: Rc<JwtFilter>,
    /// What dynamic metadata gets, however it ends.
    notes: Object,
    route_again: bool,
}

/// Checks a requirement; good tokens leave their headers and notes.
pub(super) async fn check<U: Upstreams>(
    x: &mut Exchange<U>,
    filter: &Rc<JwtFilter>,
    requirement: &Requirement,
) -> Result<(), Status> {
    let mut check = Check {
        x,
        filter: Rc::clone(filter),
        notes: Object::new(),
        route_again: false,
    };
    let result = check.requirement(requirement).await;
    let Check {
        notes,
        route_again: anew,
        ..
    } = check;
    if !notes.is_empty() {
        x.state_mut().merge(NAMESPACE, notes);
    }
    if anew && result.is_ok() {
        route_again(x);
    }
    result
}

/// How much a failure tells.
fn telling(status: Status) -> u8 {
    match status {
        Status::Missed => 0,
        Status::UnknownIssuer => 1,
        _ => 2,
    }
}

type Checking<'a> = Pin<Box<dyn Future<Output = Result<(), Status>> + 'a>>;

impl<U: Upstreams> Check<'_, U> {
    fn requirement<'a>(&'a mut self, requirement: &'a Requirement) -> Checking<'a> {
        Box::pin(async move {
            match requirement {
                Requirement::Provider(index, audiences) => {
                    let audiences = audiences.as_deref();
                    self.tokens(&[*index], audiences, Some(*index), Lenience::None)
                        .await
                }
                Requirement::AllowFailed(providers) => {
                    self.tokens(providers, None, None, Lenience::Failed).await
                }
                Requirement::AllowMissing(providers) => {
                    self.tokens(providers, None, None, Lenience::Missing).await
                }
                Requirement::All(all) => {
                    for requirement in all {
                        self.requirement(requirement).await?;
                    }
                    Ok(())
                }
                Requirement::Any(any) => self.any(any).await,
            }
        })
    }

    /// The first good one; else what says most about the failure.
    async fn any(&mut self, any: &[Requirement]) -> Result<(), Status> {
        let mut worst = Status::Missed;
        for requirement in any {
            match self.requirement(requirement).await {
                Ok(()) => return Ok(()),
                Err(status) => {
                    if telling(status) >= telling(worst) {
                        worst = status;
                    }
                }
            }
        }
        Err(worst)
    }

    /// Every token that is there, the last found first.
    async fn tokens(
        &mut self,
        providers: &[usize],
        audiences: Option<&[String]>,
        only: Option<usize>,
        lenience: Lenience,
    ) -> Result<(), Status> {
        let filter = Rc::clone(&self.filter);
        sanitise(self.x, &filter.config, providers);
        let found = extract::tokens(&filter.config, providers, &self.x.view());
        let mut result = match found.is_empty() {
            true => Err(Status::Missed),
            false => Ok(()),
        };
        if let Err(status) = result {
            self.note_failure(only, status);
        }
        for token in &found {
            result = self.token(token, audiences, only).await;
            if result.is_err() && lenience == Lenience::None {
                break;
            }
        }
        match (lenience, result) {
            (Lenience::Failed, _) | (Lenience::Missing, Err(Status::Missed)) => Ok(()),
            (_, result) => result,
        }
    }

    async fn token(
        &mut self,
        found: &Found,
        audiences: Option<&[String]>,
        only: Option<usize>,
    ) -> Result<(), Status> {
        let filter = Rc::clone(&self.filter);
        let mut known = only.and_then(|index| filter.provider(index)?.known(&found.text));
        let cached = known.is_some();
        let token = match known.take() {
            Some(token) => token,
            None => match Token::parse(&found.text) {
                Ok(token) => Rc::new(token),
                Err(status) => return Err(self.failed(only, status)),
            },
        };
        let issued = |index: &usize, exactly: bool| {
            let provider = filter.config.providers.get(*index);
            provider.is_some_and(|provider| match exactly {
                true => provider.issuer == token.issuer,
                false => provider.issuer.is_empty(),
            })
        };
        let mut looking = found.providers.iter();
        let index = looking
            .find(|index| issued(index, true))
            .or_else(|| found.providers.iter().find(|index| issued(index, false)));
        let Some(index) = index.copied() else {
            return Err(self.failed(only, Status::UnknownIssuer));
        };
        let Some(provider) = filter.config.providers.get(index) else {
            return Err(Status::UnknownIssuer);
        };
        let good = self.good(index, provider, &token, audiences, cached).await;
        if let Err(status) = good {
            return Err(self.failed(Some(index), status));
        }
        if !cached
            && only.is_some()
            && let Some(state) = filter.provider(index)
        {
            state.keep(&found.text, &token);
        }
        self.apply(provider, &token, &found.place);
        Ok(())
    }

    /// Subject, lifetime, moment, audience, signature: in Envoy's order.
    async fn good(
        &self,
        index: usize,
        provider: &JwtProvider,
        token: &Token,
        audiences: Option<&[String]>,
        cached: bool,
    ) -> Result<(), Status> {
        let subjects = provider.subjects.as_ref();
        if subjects.is_some_and(|subjects| !subjects.is_match(&token.subject)) {
            return Err(Status::VerificationFail);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let limited = provider.require_expiration || provider.max_lifetime.is_some();
        if limited && token.expires == 0 {
            return Err(Status::VerificationFail);
        }
        if let Some(longest) = provider.max_lifetime
            && token.expires.saturating_sub(now) > longest.as_secs()
        {
            return Err(Status::VerificationFail);
        }
        token.check_time(now, provider.clock_skew.into())?;
        let allowed = audiences.unwrap_or(&provider.audiences);
        let fits = |audience: &String| allowed.iter().any(|it| it == sanitized(audience));
        if !allowed.is_empty() && !token.audiences.iter().any(fits) {
            return Err(Status::AudienceNotAllowed);
        }
        if cached {
            return Ok(());
        }
        let state = self.filter.provider(index).ok_or(Status::JwksNoValidKeys)?;
        let keys = state.keys(self.x.cx.worker.caller()).await?;
        keys.verify(token)
    }

    fn apply(&mut self, provider: &JwtProvider, token: &Token, place: &Place) {
        let x = &mut *self.x;
        let mut changed = false;
        if let Some(name) = &provider.payload_header
            && let Some(value) = claims::payload_header(provider, token)
        {
            x.head.headers.append(name.clone(), value);
            changed = true;
        }
        for (name, path) in &provider.claim_headers {
            if let Some(value) = claims::claim_header(&token.claims, path) {
                x.head.headers.append(name.clone(), value);
                changed = true;
            }
        }
        if !provider.forward {
            match place {
                Place::Header(name) => {
                    x.head.headers.remove(name);
                }
                Place::Param(name) => {
                    let path = extract::without_param(x.view().path, name);
                    if let Ok(path) = path.parse::<PathAndQuery>() {
                        x.set_path(path);
                    }
                }
                Place::Cookie => {}
            }
        }
        claims::note(provider, token, &mut self.notes);
        self.route_again |= provider.clear_route_cache && (changed || !self.notes.is_empty());
    }

    fn failed(&mut self, index: Option<usize>, status: Status) -> Status {
        self.note_failure(index, status);
        status
    }

    /// Of a token that no provider is known for, where there is only one.
    fn note_failure(&mut self, index: Option<usize>, status: Status) {
        let filter = Rc::clone(&self.filter);
        let providers = &filter.config.providers;
        let index = index.or((providers.len() == 1).then_some(0));
        if let Some(provider) = index.and_then(|index| providers.get(index)) {
            claims::note_failure(provider, status, &mut self.notes);
        }
    }
}
