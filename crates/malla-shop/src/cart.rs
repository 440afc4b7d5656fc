//! `/cart`, `/list` and `/clear`: what a user wants to buy, kept in this process's memory only, so
//! that three carts without session affinity lose things before everyone's eyes.

use std::cell::RefCell;
use std::collections::BTreeMap;

use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;

use crate::serve::{Answer, Answers, json, number, plain, preflight};
use crate::upstream::Shop;
use crate::wire::{Cart, CartLine, Cleared, Place, Stock, go_json};

/// What the original takes a missing or unreadable number for.
const UNKNOWN: i64 = 9;

#[derive(Debug)]
pub(crate) struct Carts {
    shop: Shop,
    place: Place,
    by_user: RefCell<BTreeMap<i64, BTreeMap<i64, CartLine>>>,
}

impl Carts {
    pub(crate) fn new(shop: Shop, place: Place) -> Self {
        Self {
            shop,
            place,
            by_user: RefCell::default(),
        }
    }

    /// Sets the quantity the headers name and answers with the whole cart.
    fn put(&self, headers: &HeaderMap, stock: &Stock) -> Vec<CartLine> {
        let [user, pid, num] =
            ["userid", "pid", "num"].map(|name| number(headers, name).unwrap_or(UNKNOWN));
        if !((1..=5).contains(&user) && (1..=8).contains(&pid)) {
            return Vec::new();
        }
        let line = CartLine {
            pid,
            num,
            stock: stock.quantity.get(&pid).copied().unwrap_or_default(),
        };
        let mut carts = self.by_user.borrow_mut();
        let cart = carts.entry(user).or_default();
        cart.insert(pid, line);
        cart.values().copied().collect()
    }

    fn list(&self, headers: &HeaderMap) -> Vec<CartLine> {
        let user = number(headers, "userid").unwrap_or(UNKNOWN);
        self.by_user
            .borrow()
            .get(&user)
            .map(|cart| cart.values().copied().collect())
            .unwrap_or_default()
    }

    fn clear(&self, headers: &HeaderMap) -> Cleared {
        match number(headers, "userid") {
            Some(user) => {
                self.by_user.borrow_mut().remove(&user);
                Cleared { success: "true" }
            }
            None => Cleared { success: "false" },
        }
    }

    fn answer_with(&self, headers: &HeaderMap, products: Vec<CartLine>, stock: Stock) -> Answer {
        let mut info = stock.info;
        info.push(self.place.info("cart-v1"));
        json(headers, "UserID,Pid,Num", go_json(&Cart { products, info }))
    }
}

impl Answers for Carts {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let headers = request.headers();
        let path = request.uri().path();
        if !["/cart", "/list", "/clear"].contains(&path) {
            return plain(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        let preflight_headers = if path == "/cart" {
            "UserID,Pid,Num"
        } else {
            "UserID"
        };
        if request.method() == Method::OPTIONS {
            return preflight(headers, preflight_headers);
        }
        if path == "/clear" {
            return json(headers, "UserID", go_json(&self.clear(headers)));
        }
        let pid = if path == "/cart" {
            number(headers, "pid").unwrap_or(UNKNOWN)
        } else {
            1
        };
        let stock = match self.shop.stock(&[pid], headers).await {
            Ok(stock) => stock,
            Err(error) => return plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
        };
        let products = if path == "/cart" {
            self.put(headers, &stock)
        } else {
            self.list(headers)
        };
        self.answer_with(headers, products, stock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(user: &str, pid: &str, num: &str) -> HeaderMap {
        [("userid", user), ("pid", pid), ("num", num)]
            .map(|(k, v)| (http::HeaderName::from_static(k), v.parse().unwrap()))
            .into_iter()
            .collect()
    }

    #[test]
    fn a_cart_holds_what_was_last_said() {
        let carts = Carts::new(
            Shop::new("test"),
            Place {
                pod: "p".into(),
                region: "r".into(),
            },
        );
        let stock = Stock {
            quantity: [(2, 200)].into(),
            info: vec![],
        };
        carts.put(&headers("1", "2", "1"), &stock);
        let lines = carts.put(&headers("1", "2", "3"), &stock);
        assert_eq!(
            lines,
            [CartLine {
                pid: 2,
                num: 3,
                stock: 200
            }]
        );
        assert!(carts.put(&headers("6", "2", "1"), &stock).is_empty());
        assert!(carts.put(&headers("1", "nine", "1"), &stock).is_empty());
        assert!(carts.list(&headers("2", "", "")).is_empty());
        assert_eq!(
            go_json(&carts.clear(&headers("1", "", ""))),
            r#"{"Success":"true"}"#
        );
        assert!(carts.list(&headers("1", "", "")).is_empty());
    }
}
