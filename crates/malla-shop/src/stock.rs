//! `GET /stock`, header `Pids: 1,2`: how much there is of each product.

use std::collections::BTreeMap;

use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;

use crate::serve::{Answer, Answers, old_fashioned, old_fashioned_refusal};
use crate::wire::{Place, Stock, python_json};

const QUANTITIES: [(i64, i64); 8] = [
    (1, 200),
    (2, 200),
    (3, 0),
    (4, 100),
    (5, 0),
    (6, 200),
    (7, 300),
    (8, 0),
];

#[derive(Debug)]
pub(crate) struct Stocks {
    pub(crate) place: Place,
}

impl Answers for Stocks {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if let Some(refusal) = old_fashioned_refusal(&request, "/stock") {
            return refusal;
        }
        let stock = Stock {
            quantity: quantities(request.headers()),
            info: vec![self.place.info("stock-v1")],
        };
        old_fashioned(StatusCode::OK, "application/json", python_json(&stock))
    }
}

fn quantities(headers: &HeaderMap) -> BTreeMap<i64, i64> {
    let asked = headers
        .get("pids")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let asked: Vec<i64> = asked
        .split(',')
        .filter_map(|pid| pid.trim().parse().ok())
        .collect();
    QUANTITIES
        .into_iter()
        .filter(|(pid, _)| asked.contains(pid))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_products_that_were_asked_for() {
        let mut headers = HeaderMap::new();
        assert!(quantities(&headers).is_empty());
        headers.insert("pids", "1,3,9,x".parse().unwrap());
        assert_eq!(quantities(&headers), [(1, 200), (3, 0)].into());
    }
}
