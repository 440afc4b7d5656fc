//! Lights: are the lesson's objects there as it wrote them, and does the mesh behave so?

use malla_api::duration;
use serde_json::{Map, Value, json};

use super::Lesson;
use super::probe::{Prober, Seen};
use crate::cluster::{Address, Cluster};
use crate::mirror::{Mirror, Object, Watched, has_proxy};
use crate::proxies::is_ready;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Green,
    Red,
    Unknown,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Red => "red",
            Self::Unknown => "unknown",
        }
    }
}

/// A light, and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Light {
    pub(crate) state: State,
    pub(crate) en: String,
    pub(crate) zh: String,
}

impl Light {
    fn new(state: State, en: impl Into<String>, zh: impl Into<String>) -> Self {
        Self {
            state,
            en: en.into(),
            zh: zh.into(),
        }
    }

    /// Nobody has looked yet.
    pub(crate) fn unseen() -> Self {
        Self::new(State::Unknown, "being looked at", "正在检查")
    }

    /// Green where `holds`, with what was measured either way.
    fn of(holds: bool, en: String, zh: String) -> Self {
        Self::new(if holds { State::Green } else { State::Red }, en, zh)
    }
}

/// Looks at one lesson.
pub(super) async fn of(lesson: &Lesson, cluster: &Cluster, mirror: &Mirror) -> Light {
    if let Some(missing) = missing(lesson, mirror) {
        return missing;
    }
    let Some(prober) = Prober::new(cluster, mirror) else {
        return Light::new(
            State::Unknown,
            "the ingress gateway's Service is not there",
            "找不到入口网关的 Service",
        );
    };
    let measured = match lesson.id {
        "q0" => Ok(pods(mirror)),
        "q1" => front_page(&prober).await,
        "q2" => both_orders(&prober).await,
        "q3" => orders_by_cookie(&prober).await,
        "q4" => products(&prober, 30, 5..=25).await,
        "q5" => products(&prober, 10, 10..=10).await,
        "q6" => slow_cart(&prober).await,
        "q7" => order_times_out(&prober, mirror).await,
        "q8" => one_cart_pod(&prober).await,
        "q9" | "q10" | "q15" => clients(lesson.id, &prober, mirror).await,
        "q14" => plain_text(&prober).await,
        _ => Err("there is no measurement for it".to_owned()),
    };
    measured
        .unwrap_or_else(|error| Light::new(State::Red, error.clone(), format!("请求失败：{error}")))
}

/// What of the lesson's objects is not there, not as it should be, or not running.
fn missing(lesson: &Lesson, mirror: &Mirror) -> Option<Light> {
    let red = |en: String, zh: String| Some(Light::new(State::Red, en, zh));
    let objects = match lesson.objects() {
        Ok(objects) => objects,
        Err(error) => return red(error.to_string(), error.to_string()),
    };
    for wanted in objects {
        let Ok(address) = Address::of(&wanted) else {
            continue;
        };
        let what = format!("{} {}/{}", address.kind(), address.namespace, address.name);
        let what = what.replace(" /", " ");
        let Some(present) = mirror.get(address.watched, &address.namespace, &address.name) else {
            return red(format!("{what} is not there"), format!("还没有 {what}"));
        };
        match address.watched {
            Watched::Istio(_) if !covers(present.value.get("spec"), wanted.get("spec")) => {
                return red(
                    format!("{what} says something else"),
                    format!("{what} 的内容与本课不同"),
                );
            }
            Watched::Deployment if !is_available(&present) => {
                return red(format!("{what} is starting"), format!("{what} 正在启动"));
            }
            _ => {}
        }
    }
    None
}

/// Whether `have` says at least what `wanted` says, in whatever words; lists must be as long.
fn covers(have: Option<&Value>, wanted: Option<&Value>) -> bool {
    match (have, wanted) {
        (_, None) => true,
        (Some(Value::Object(have)), Some(Value::Object(wanted))) => {
            wanted.iter().all(|(name, wanted)| {
                goes_without_saying(have, name, wanted) || covers(have.get(name), Some(wanted))
            })
        }
        (Some(Value::String(have)), Some(Value::String(wanted))) => same_word(have, wanted),
        (Some(Value::Array(have)), Some(Value::Array(wanted))) => {
            have.len() == wanted.len()
                && have
                    .iter()
                    .zip(wanted)
                    .all(|(have, wanted)| covers(Some(have), Some(wanted)))
        }
        (have, wanted) => have == wanted,
    }
}

/// What holds also when it is not said: an only destination gets everything, the only port of a
/// service is meant, everybody sees the rule.
fn goes_without_saying(have: &Map<String, Value>, name: &str, wanted: &Value) -> bool {
    let default = match name {
        "weight" => *wanted == 100,
        "port" => wanted.is_object(),
        "exportTo" => *wanted == json!(["*"]),
        _ => false,
    };
    default && !have.contains_key(name)
}

/// Whether two words are the same text, the same duration, or the same service of the shop.
fn same_word(have: &str, wanted: &str) -> bool {
    let service = |host: &str| {
        let name = host.strip_suffix(".svc.cluster.local").unwrap_or(host);
        name.strip_suffix(".base").unwrap_or(name).to_owned()
    };
    let durations = (duration::parse(have), duration::parse(wanted));
    matches!(durations, (Ok(have), Ok(wanted)) if have == wanted)
        || service(have) == service(wanted)
}

fn is_available(deployment: &Object) -> bool {
    let count = |pointer: &str| {
        deployment
            .value
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or_default()
    };
    count("/status/availableReplicas") >= count("/spec/replicas").max(1)
}

fn pods(mirror: &Mirror) -> Light {
    let pods = mirror.list(Watched::Pod);
    let shop: Vec<_> = pods
        .iter()
        .filter(|pod| pod.namespace() == "base")
        .collect();
    let good = shop
        .iter()
        .filter(|pod| has_proxy(&pod.value) && is_ready(&pod.value))
        .count();
    Light::of(
        good == shop.len() && good > 0,
        format!(
            "{good} of {} pods in base are ready and have a proxy",
            shop.len()
        ),
        format!("base 中 {} 个 Pod 有 {good} 个就绪且带有代理", shop.len()),
    )
}

async fn front_page(prober: &Prober) -> Result<Light, String> {
    let status = prober.page().await?;
    Ok(Light::of(
        status == 200,
        format!("the gateway answers {status}"),
        format!("网关返回 {status}"),
    ))
}

async fn both_orders(prober: &Prober) -> Result<Light, String> {
    let mut seen = Seen::default();
    // Once a rule reads the cookie, calls without one are answered by nobody.
    for cookie in [None, Some("vip=true"), Some("vip=false")] {
        for answer in prober.orders(cookie, 6).await {
            seen.count(answer.ok().as_deref());
        }
    }
    let (one, two) = (seen.one, seen.two);
    Ok(Light::of(
        one > 0 && two > 0,
        format!("{one} answers came from order v1, {two} from v2"),
        format!("{one} 个回答来自 order v1，{two} 个来自 v2"),
    ))
}

async fn orders_by_cookie(prober: &Prober) -> Result<Light, String> {
    let (mut vip, mut other) = (Seen::default(), Seen::default());
    for answer in prober.orders(Some("vip=true"), 5).await {
        vip.count(answer.ok().as_deref());
    }
    for answer in prober.orders(Some("vip=false"), 5).await {
        other.count(answer.ok().as_deref());
    }
    Ok(Light::of(
        (vip.two, other.one) == (5, 5),
        format!(
            "VIPs got v2 {} times of 5, others got v1 {} times of 5",
            vip.two, other.one
        ),
        format!(
            "VIP 用户 5 次中有 {} 次到 v2，其他用户 5 次中有 {} 次到 v1",
            vip.two, other.one
        ),
    ))
}

async fn products(
    prober: &Prober,
    calls: usize,
    wanted: std::ops::RangeInclusive<usize>,
) -> Result<Light, String> {
    let mut seen = Seen::default();
    for answer in prober.products(calls).await {
        seen.count(Some(answer?.as_str()));
    }
    Ok(Light::of(
        wanted.contains(&seen.two) && seen.one + seen.two == calls,
        format!("{} of {calls} answers came from product v2", seen.two),
        format!("{calls} 个回答中有 {} 个来自 product v2", seen.two),
    ))
}

async fn slow_cart(prober: &Prober) -> Result<Light, String> {
    let cart = prober.cart(1).await?;
    let took = cart.took.as_secs_f64();
    Ok(Light::of(
        cart.status == 200 && took >= 7.0,
        format!("a cart took {took:.1} s and answered {}", cart.status),
        format!("购物车用了 {took:.1} 秒，返回 {}", cart.status),
    ))
}

async fn order_times_out(prober: &Prober, mirror: &Mirror) -> Result<Light, String> {
    let order = prober.order(Some("vip=true")).await?;
    let took = order.took.as_secs_f64();
    let timed_out = order.status == 504 && (2.5..5.0).contains(&took);
    let slow = mirror
        .get(
            Watched::Istio(malla_api::Kind::VirtualService),
            "base",
            "stock-vs",
        )
        .is_some();
    if !timed_out && !slow {
        let en = "the rule is there, but nothing is slow: apply lesson Q6 to see it at work";
        return Ok(Light::new(
            State::Unknown,
            en,
            "规则已生效，但没有变慢的服务：应用 Q6 可看到效果",
        ));
    }
    Ok(Light::of(
        timed_out,
        format!("an order answered {} after {took:.1} s", order.status),
        format!("下单在 {took:.1} 秒后返回 {}", order.status),
    ))
}

async fn one_cart_pod(prober: &Prober) -> Result<Light, String> {
    let mut pods = prober.cart_pods(1, 12).await?;
    pods.sort();
    pods.dedup();
    Ok(Light::of(
        pods.len() == 1,
        format!("12 calls of user 1 reached {} cart pod(s)", pods.len()),
        format!("用户 1 的 12 次请求到达了 {} 个购物车 Pod", pods.len()),
    ))
}

async fn clients(id: &str, prober: &Prober, mirror: &Mirror) -> Result<Light, String> {
    let (good, bad) = prober.client_lines(mirror).await?;
    let present =
        |id: &str| super::lesson(id).is_some_and(|other| missing(other, mirror).is_none());
    let holds = match id {
        // Later lessons turn its calls away, which is not its fault.
        "q9" => good + bad > 0 && (bad == 0 || present("q10") || present("q15")),
        "q10" => bad > 0 && (good > 0 || present("q15")),
        _ => bad > 0 && good == 0,
    };
    Ok(Light::of(
        holds,
        format!("of the clients' last lines {good} were answered and {bad} were not"),
        format!("客户端最近的日志中，{good} 行得到回答，{bad} 行没有"),
    ))
}

async fn plain_text(prober: &Prober) -> Result<Light, String> {
    let shop = prober.page().await?;
    let plain = prober.product_in_plain_text().await;
    let said = match &plain {
        Ok(status) => format!("is answered {status}"),
        Err(_) => "is cut off".to_owned(),
    };
    let said_zh = match &plain {
        Ok(status) => format!("得到 {status}"),
        Err(_) => "被断开".to_owned(),
    };
    Ok(Light::of(
        plain.is_err() && shop == 200,
        format!("a call in plain text {said}; the shop itself answers {shop}"),
        format!("明文请求{said_zh}；商店本身返回 {shop}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_may_say_more_but_not_something_else() {
        let check = |have: Value, wanted: Value| covers(Some(&have), Some(&wanted));
        assert!(check(
            json!({"a": 1, "b": [{"c": 2, "d": 3}]}),
            json!({"b": [{"c": 2}]})
        ));
        assert!(!check(
            json!({"b": [{"c": 2}, {}]}),
            json!({"b": [{"c": 2}]})
        ));
        assert!(!check(json!({"b": 1}), json!({"b": 2})));
        assert!(check(
            json!({"timeout": "3s", "route": [{"destination": {"host": "order"}}]}),
            json!({
                "timeout": "3000ms", "exportTo": ["*"],
                "route": [{
                    "destination": {
                        "host": "order.base.svc.cluster.local", "port": {"number": 7000}
                    },
                    "weight": 100
                }]
            })
        ));
        assert!(!check(json!({"timeout": "4s"}), json!({"timeout": "3s"})));
        assert!(!check(json!({"weight": 50}), json!({"weight": 100})));
        assert!(!check(json!({}), json!({"weight": 50})));
        assert!(!covers(None, Some(&json!({"b": 2}))));
    }
}
