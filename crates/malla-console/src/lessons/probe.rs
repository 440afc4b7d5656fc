//! The requests behind the lights: as a visitor of the shop through the gateway, as somebody without
//! an identity, and as a reader of the clients' logs.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::control::host_port;
use crate::mirror::{Mirror, Watched};
use crate::wire::{Answer, Bounds, Call};

/// A call through a fault of seven seconds must come to its end.
const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(12),
    bytes: 1024 * 1024,
};
/// Somebody who is cut off learns so at once.
const PLAIN: Bounds = Bounds {
    time: Duration::from_secs(3),
    bytes: 1024 * 1024,
};
/// One of product 1.
const BASKET: &str = r#"{"Products": [{"Pid": 1, "Num": 1, "Price": 100}]}"#;
/// Clients whose logs are read.
const CLIENTS: usize = 3;

/// Sends the requests.
#[derive(Debug)]
pub(super) struct Prober {
    cluster: Cluster,
    gateway: String,
    product: Option<String>,
}

/// An answer with how long it took.
#[derive(Debug)]
pub(super) struct Timed {
    pub(super) status: u16,
    pub(super) took: Duration,
    body: Value,
}

/// How many answers came from each version.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) one: usize,
    pub(super) two: usize,
}

impl Seen {
    /// `order-v2`; `None` is no answer.
    pub(super) fn count(&mut self, service: Option<&str>) {
        match service.and_then(|service| service.rsplit('-').next()) {
            Some("v1") => self.one += 1,
            Some("v2") => self.two += 1,
            _ => {}
        }
    }
}

impl Prober {
    /// `None` as long as there is no gateway to go through.
    pub(super) fn new(cluster: &Cluster, mirror: &Mirror) -> Option<Self> {
        let address = |namespace: &str, name: &str, port: u16| {
            let service = mirror.get(Watched::Service, namespace, name)?;
            let ip = service.text("/spec/clusterIP");
            (!ip.is_empty() && ip != "None").then(|| host_port(ip, port))
        };
        let gateways = mirror.list(Watched::Service);
        let gateway = gateways
            .iter()
            .find(|service| service.name() == "istio-ingressgateway")?;
        Some(Self {
            cluster: cluster.clone(),
            gateway: address(gateway.namespace(), gateway.name(), 80)?,
            product: address("base", "product", 7000),
        })
    }

    async fn shop(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Timed, String> {
        let started = Instant::now();
        let call = Call {
            method,
            host: &self.gateway,
            path,
            headers,
            body,
        };
        let Answer { status, body } = call
            .to(&self.gateway, BOUNDS)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Timed {
            status: status.as_u16(),
            took: started.elapsed(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        })
    }

    pub(super) async fn page(&self) -> Result<u16, String> {
        Ok(self.shop(Method::GET, "/", &[], "").await?.status)
    }

    pub(super) async fn order(&self, cookie: Option<&str>) -> Result<Timed, String> {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(cookie.map(|cookie| ("cookie", cookie)));
        self.shop(Method::POST, "/order", &headers, BASKET).await
    }

    /// Which version of order answered each of so many calls.
    pub(super) async fn orders(
        &self,
        cookie: Option<&str>,
        calls: usize,
    ) -> Vec<Result<String, String>> {
        let asked = (0..calls).map(|_| async move {
            let order = self.order(cookie).await?;
            let infos = order.body.get("Info").and_then(Value::as_array);
            let mut services = infos
                .into_iter()
                .flatten()
                .filter_map(|info| info.get("Service")?.as_str());
            let own = services.find(|service| service.starts_with("order"));
            own.map(str::to_owned)
                .ok_or_else(|| format!("the order's answer is {}", order.status))
        });
        join_all(asked).await
    }

    /// Which version of product answered each of so many calls.
    pub(super) async fn products(&self, calls: usize) -> Vec<Result<String, String>> {
        let asked = (0..calls).map(|_| async move {
            let product = self.shop(Method::GET, "/product", &[], "").await?;
            let service = product
                .body
                .pointer("/info/0/Service")
                .and_then(Value::as_str);
            service
                .map(str::to_owned)
                .ok_or_else(|| format!("the product page's answer is {}", product.status))
        });
        join_all(asked).await
    }

    pub(super) async fn cart(&self, user: u32) -> Result<Timed, String> {
        let user = user.to_string();
        let headers = [("UserID", user.as_str()), ("Pid", "1"), ("Num", "1")];
        self.shop(Method::GET, "/cart", &headers, "").await
    }

    /// Which pod kept the user's cart, at each of so many calls.
    pub(super) async fn cart_pods(&self, user: u32, calls: usize) -> Result<Vec<String>, String> {
        let asked = (0..calls).map(|_| async move {
            let cart = self.cart(user).await?;
            let infos = cart.body.get("Info").and_then(Value::as_array);
            let mut own = infos.into_iter().flatten().filter(|info| {
                info.get("Service")
                    .and_then(Value::as_str)
                    .is_some_and(|service| service.starts_with("cart"))
            });
            let pod = own.next().and_then(|info| info.get("Pod")?.as_str());
            pod.map(str::to_owned)
                .ok_or_else(|| format!("the cart's answer is {}", cart.status))
        });
        join_all(asked).await.into_iter().collect()
    }

    /// A call past the gateway: this process has no proxy, so it goes out in plain text.
    pub(super) async fn product_in_plain_text(&self) -> Result<u16, String> {
        let address = self
            .product
            .as_deref()
            .ok_or("there is no Service base/product")?;
        let answer = Call::get("product.base.svc.cluster.local:7000", "/product")
            .to(address, PLAIN)
            .await;
        answer
            .map(|answer| answer.status.as_u16())
            .map_err(|error| error.to_string())
    }

    /// Of the last lines of some clients: how many tell of an answer, and how many of none.
    pub(super) async fn client_lines(&self, mirror: &Mirror) -> Result<(usize, usize), String> {
        let pods = mirror.list(Watched::Pod);
        let clients = pods
            .iter()
            .filter(|pod| pod.namespace() == "test" && pod.label("app") == Some("client"));
        let api: Api<Pod> = Api::namespaced(self.cluster.client().clone(), "test");
        let parameters = LogParams {
            container: Some("client".to_owned()),
            since_seconds: Some(2),
            tail_lines: Some(40),
            ..LogParams::default()
        };
        let asked = clients
            .take(CLIENTS)
            .map(|pod| api.logs(pod.name(), &parameters));
        let (mut good, mut bad) = (0, 0);
        for log in join_all(asked).await {
            for line in log.map_err(|error| error.to_string())?.lines() {
                match line.contains("UserID: 0") {
                    true => bad += 1,
                    false if line.contains("Name: ") => good += 1,
                    false => {}
                }
            }
        }
        Ok((good, bad))
    }
}
