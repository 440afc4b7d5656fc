//! `envoy.type.v3.TokenBucket`.

use std::time::Duration;

use crate::checked::{Cx, Invalid};
use crate::pb::types;

/// How fast and how far a bucket fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenRate {
    /// The bucket starts with so many and never has more; at least 1.
    pub max_tokens: u32,
    /// Added in each interval; at least 1.
    pub tokens_per_fill: u32,
    /// The interval; at least 1 ms.
    pub fill_interval: Duration,
}

impl TokenRate {
    pub(crate) fn parse(wire: types::TokenBucket, cx: &mut Cx) -> Result<Self, Invalid> {
        let types::TokenBucket {
            max_tokens,
            tokens_per_fill,
            fill_interval,
        } = wire;
        if max_tokens == 0 {
            return Err(cx.invalid("max_tokens", "must be more than 0"));
        }
        let tokens_per_fill = tokens_per_fill.map_or(1, |tokens| tokens.value);
        if tokens_per_fill == 0 {
            return Err(cx.invalid("tokens_per_fill", "must be more than 0"));
        }
        let interval = cx.duration("fill_interval", fill_interval)?;
        let fill_interval = cx.required("fill_interval", interval)?;
        if fill_interval < Duration::from_millis(1) {
            return Err(cx.invalid("fill_interval", "must be at least 1ms"));
        }
        Ok(Self {
            max_tokens,
            tokens_per_fill,
            fill_interval,
        })
    }

    /// Tokens in a second.
    pub fn per_second(&self) -> f64 {
        f64::from(self.tokens_per_fill) / self.fill_interval.as_secs_f64()
    }
}
