//! `GET /product`: what there is to buy. Version 2 has a picture for a banner.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;

use crate::Version;
use crate::serve::{Answer, Answers, old_fashioned, old_fashioned_refusal};
use crate::wire::{MeshInfo, Place, python_json};

const NAMES: [&str; 8] = [
    "malla",
    "core-dns",
    "envoy",
    "fluentd",
    "helm",
    "jaeger",
    "vitess",
    "prometheus",
];

#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) version: Version,
    pub(crate) place: Place,
}

#[derive(Debug, Serialize)]
struct Catalogue {
    product: Vec<Item>,
    url: &'static str,
    info: [MeshInfo; 1],
}

#[derive(Debug, Serialize)]
struct Item {
    name: &'static str,
    pid: usize,
    price: usize,
    url: String,
}

impl Product {
    fn catalogue(&self) -> Catalogue {
        let product = NAMES
            .iter()
            .enumerate()
            .map(|(at, name)| Item {
                name,
                pid: at + 1,
                price: (at + 1) * 100,
                url: format!("/art/{}.svg", at + 1),
            })
            .collect();
        let (service, url) = match self.version {
            Version::V1 => ("product-v1", "xxx"),
            Version::V2 => ("product-v2", "/art/banner.svg"),
        };
        Catalogue {
            product,
            url,
            info: [self.place.info(service)],
        }
    }
}

impl Answers for Product {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if let Some(refusal) = old_fashioned_refusal(&request, "/product") {
            return refusal;
        }
        let mut answer = old_fashioned(
            StatusCode::OK,
            "application/json",
            python_json(&self.catalogue()),
        );
        let headers = answer.headers_mut();
        let origin = request.headers().get(http::header::ORIGIN).cloned();
        headers.insert(
            "access-control-allow-origin",
            origin.unwrap_or(http::HeaderValue::from_static("None")),
        );
        headers.insert(
            "access-control-allow-credentials",
            http::HeaderValue::from_static("true"),
        );
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_two_has_a_banner() {
        let place = Place {
            pod: "p".into(),
            region: "r".into(),
        };
        let text = |version| {
            python_json(
                &Product {
                    version,
                    place: place.clone(),
                }
                .catalogue(),
            )
        };
        assert!(text(Version::V1).contains(
            r#""url": "xxx", "info": [{"Service": "product-v1", "Pod": "p", "Region": "r"}]"#
        ));
        assert!(text(Version::V2).contains(r#""url": "/art/banner.svg", "info""#));
        assert!(
            text(Version::V1)
                .starts_with(r#"{"product": [{"name": "malla", "pid": 1, "price": 100, "#)
        );
    }
}
