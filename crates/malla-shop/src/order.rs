//! `POST /order`: adds up a basket. Version 2 gives VIPs their shipping back.

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use crate::Version;
use crate::serve::{Answer, Answers, json, plain, preflight};
use crate::upstream::Shop;
use crate::wire::{Basket, Order, Place, Stock, go_json};

const SHIPPING: f64 = 10.0;
const LARGEST_BASKET: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) version: Version,
    pub(crate) shop: Shop,
    pub(crate) place: Place,
}

impl Orders {
    #[allow(clippy::cast_precision_loss)] // quantities are small; the interface has floats
    fn add_up(&self, basket: Basket, stock: Stock) -> Order {
        let in_stock = |pid: &i64| stock.quantity.get(pid).copied().unwrap_or_default();
        let success = basket
            .products
            .iter()
            .all(|line| line.num <= in_stock(&line.pid));
        let subtotal = basket
            .products
            .iter()
            .map(|line| line.price * line.num as f64)
            .sum::<f64>();
        let point = if self.version == Version::V2 {
            SHIPPING
        } else {
            0.0
        };
        let mut info = stock.info;
        info.push(self.place.info(&format!("order-{}", self.version.name())));
        Order {
            subtotal,
            shopping: SHIPPING,
            point,
            total: subtotal + SHIPPING - point,
            success,
            info,
            products: basket.products,
        }
    }
}

impl Answers for Orders {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        const ALLOWED: &str = "Cookie,Content-Type";
        if request.uri().path() != "/order" {
            return plain(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        let (head, body) = request.into_parts();
        if head.method == Method::OPTIONS {
            return preflight(&head.headers, ALLOWED);
        }
        let Ok(body) = Limited::new(body, LARGEST_BASKET).collect().await else {
            return plain(StatusCode::BAD_REQUEST, "the order could not be read");
        };
        // As the original: what cannot be read is an empty basket.
        let basket: Basket = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        let pids: Vec<i64> = basket.products.iter().map(|line| line.pid).collect();
        match self.shop.stock(&pids, &head.headers).await {
            Ok(stock) => json(&head.headers, ALLOWED, go_json(&self.add_up(basket, stock))),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::OrderLine;

    fn check(version: Version, num: i64, want: &str) {
        let place = Place {
            pod: "p".into(),
            region: "r".into(),
        };
        let orders = Orders {
            version,
            shop: Shop::new("test"),
            place,
        };
        let basket = Basket {
            products: vec![OrderLine {
                pid: 2,
                price: 200.0,
                num,
            }],
        };
        let stock = Stock {
            quantity: [(2, 1)].into(),
            info: vec![],
        };
        let text = go_json(&orders.add_up(basket, stock));
        assert!(text.starts_with(want), "{text}");
    }

    #[test]
    fn vips_pay_no_shipping() {
        check(
            Version::V1,
            1,
            r#"{"Subtotal":200,"Shopping":10,"Point":0,"Total":210,"Success":true,"Info":[{"Service":"order-v1""#,
        );
        check(
            Version::V2,
            1,
            r#"{"Subtotal":200,"Shopping":10,"Point":10,"Total":200,"Success":true,"Info":[{"Service":"order-v2""#,
        );
        check(
            Version::V1,
            2,
            r#"{"Subtotal":400,"Shopping":10,"Point":0,"Total":410,"Success":false"#,
        );
    }
}
